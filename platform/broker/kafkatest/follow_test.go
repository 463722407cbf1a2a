package kafkatest_test

import (
	"testing"

	"github.com/countermand/countermand/platform/follow/followtest"
	"github.com/countermand/countermand/platform/gateway/streamtest"
)

func TestFollow(t *testing.T) {
	server, ok := newSuiteServer(t).(*suiteServer)
	if !ok {
		t.Fatal("another server")
	}
	followtest.Run(t, server.Connect(t).Broker, server.Remove)
}

func TestStreamsGoThroughAnOutage(t *testing.T) {
	streamtest.Outage(t, newSuiteServer(t))
}
