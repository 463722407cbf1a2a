package sagatest_test

import (
	"testing"

	"github.com/countermand/countermand/platform/embedded/embeddedtest"
)

func TestMain(m *testing.M) { embeddedtest.Main(m) }
