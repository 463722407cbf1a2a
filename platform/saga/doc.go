// Package saga drives transactions that span services. A definition is a table
// of steps; each step calls a participant with a command and says how to undo
// it. The engine sends one command, waits for its reply, and goes on; when a
// participant says no, or does not answer in time, it undoes what was done, in
// reverse order.
//
//	var Saga = saga.Definition[Order]{
//		Name: "checkout", Version: 1,
//		Start: saga.On(shop.RequestCheckout, newOrder, Order.result),
//		Flow: saga.Sequence[Order]{
//			saga.Step[Order]{
//				Name: "reserve-stock",
//				Do:   saga.Call(shop.ReserveStock, Order.reserve, (*Order).reserved),
//				Undo: saga.Undo(shop.ReserveStock, shop.ReleaseStock, Order.release),
//			},
//			saga.Step[Order]{Name: "capture-payment", Do: saga.Call(shop.CapturePayment, Order.capture, nil), Pivot: true},
//			saga.Step[Order]{Name: "confirm-order", Do: saga.Call(shop.ConfirmOrder, Order.confirm, nil)},
//		},
//	}
//
// # What may be relied on
//
// Every saga ends completed or compensated, or says that it is stuck and needs
// a person; it never ends with undos that have not run. Steps before the pivot
// are undone when a later one is rejected or times out. A step that timed out is
// in doubt: it may have run, so it is undone as well, and participants keep a
// tombstone for a command whose undo comes first. The pivot and the steps after
// it are repeated until they succeed.
//
// State, timers and outgoing commands of a transition commit together, guarded
// by the saga's revision. A reply counts only while its command is awaited;
// duplicates and latecomers change nothing.
//
// # How it is built
//
// [Definition.Compile] checks a definition and turns it into a [Program], whose
// Decide is a pure function. The [Engine] takes what has arrived for many sagas,
// decides, and writes all of it in one transaction.
package saga
