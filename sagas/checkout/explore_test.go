package checkout_test

import (
	"testing"

	"github.com/countermand/countermand/platform/saga/sagatest"
	"github.com/countermand/countermand/sagas/checkout"
)

// TestSagaKeepsItsPromises has every step fail in turn, and then plays checkouts in
// worlds that go wrong in every way.
func TestSagaKeepsItsPromises(t *testing.T) {
	sagatest.Unwind(t, checkout.Saga)
	sagatest.Explore(t, checkout.Saga, 1000)
}
