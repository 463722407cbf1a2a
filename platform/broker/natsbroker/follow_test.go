package natsbroker

import (
	"testing"

	"github.com/countermand/countermand/platform/follow/followtest"
)

func TestFollow(t *testing.T) {
	b, conn := open(t, Config{})
	followtest.Run(t, b, (&suiteServer{broker: on(t, conn, Config{})}).Remove)
}
