package natsbroker

import (
	"testing"

	"github.com/countermand/countermand/platform/follow/followtest"
	"github.com/countermand/countermand/platform/gateway/streamtest"
)

func TestFollow(t *testing.T) {
	b, conn := open(t, Config{})
	followtest.Run(t, b, (&suiteServer{broker: on(t, conn, Config{})}).Remove)
}

func TestStreamsGoThroughAnOutage(t *testing.T) {
	server, _ := newRestartable(t)
	streamtest.Outage(t, &suiteServer{RestartableNATS: server})
}
