package fulfilment_test

import (
	"testing"

	"github.com/countermand/countermand/events/shop"
	"github.com/countermand/countermand/platform/saga"
	"github.com/countermand/countermand/sagas/fulfilment"
	"github.com/countermand/countermand/sagas/internal/play"
)

var request = shop.FulfilmentRequest{OrderID: "018f3a5e-0000-7c44-9d6c-0a1b2c3d4e5f", Total: 2100}

func TestAnOrderIsMadeFinal(t *testing.T) {
	p := play.New(t, fulfilment.Saga, request, map[string]play.Answer{"capture-payment": {Reply: shop.PaymentCaptured{CapturedAmount: 2100}}})
	p.Run()
	p.Want(saga.Completed, "", "capture-payment", "commit-stock", "confirm-order")
	if got := string(p.Saga.Result); got != `{"captured_amount":2100}` {
		t.Errorf("result %s", got)
	}
}

func TestARefusedCaptureHasDoneNothing(t *testing.T) {
	p := play.New(t, fulfilment.Saga, request, map[string]play.Answer{"capture-payment": {Reject: shop.CaptureFailed}})
	p.Run()
	p.Want(saga.Compensated, shop.CaptureFailed, "capture-payment")
}
