package saga_test

import (
	"math/rand/v2"
	"testing"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/saga"
	"github.com/countermand/countermand/platform/saga/sagatest"
)

// TestExploreTrips plays the linear sagas of these tests.
func TestExploreTrips(t *testing.T) {
	undoableDelta := delta()
	undoableDelta.Undo = undo("delta", doD, events.NewCommand[refund, events.None]("test.delta.undo.v1"))
	for name, d := range map[string]saga.Definition[trip]{
		"pivot in the middle": standard(),
		"pivot last":          define(alpha(), beta(), gamma(), pivot(delta())),
		"no pivot":            define(alpha(), beta(), gamma(), undoableDelta),
	} {
		t.Run(name, func(t *testing.T) {
			sagatest.Explore(t, d, 1000, bookings)
			sagatest.Unwind(t, d, bookings)
		})
	}
}

var bookings = sagatest.Request(begin, func(*rand.Rand) booking { return booking{Trip: "x"} })
