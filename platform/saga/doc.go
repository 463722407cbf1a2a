// Package saga drives transactions that span services. A definition is a tree of
// nodes over one state type; most nodes are steps, which call a participant with a
// command and say how to undo it. The engine sends commands, waits for their
// replies, and goes on; when a participant says no, or does not answer in time, it
// undoes what was done, in reverse.
//
//	var Saga = saga.Definition[Order]{
//		Name: "checkout", Version: 1,
//		Start: saga.On(shop.RequestCheckout, newOrder, Order.result),
//		Flow: saga.Sequence[Order]{
//			saga.Parallel[Order]{Branches: []saga.Node[Order]{
//				saga.Step[Order]{
//					Name: "reserve-stock",
//					Do:   saga.Call(shop.ReserveStock, Order.reserve, (*Order).reserved),
//					Undo: saga.Undo(shop.ReserveStock, shop.ReleaseStock, Order.release),
//				},
//				saga.Await[Order]{Name: "approval", For: saga.Signal(shop.OrderApproved, (*Order).approved), Timeout: 24 * time.Hour},
//			}},
//			saga.Step[Order]{Name: "capture-payment", Do: saga.Call(shop.CapturePayment, Order.capture, nil), Pivot: true},
//			saga.Step[Order]{Name: "confirm-order", Do: saga.Call(shop.ConfirmOrder, Order.confirm, nil)},
//		},
//	}
//
// # Nodes
//
// [Step] calls a participant, [Local] runs Go code in the engine's transaction,
// [Child] runs another saga. [Sequence], [Parallel], [Choice], [ForEach] and
// [Decide] put nodes together. [Await] waits for a signal, [Sleep] for time, [Lock]
// for other sagas. A step's OnReject says what else to do than compensate.
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
// What a transition changes, its timers and its outcome commit together, guarded
// by the saga's revision. A reply counts only while its command is awaited;
// duplicates and latecomers change nothing. Every transition is an [Entry] of the
// saga's history, and so is every [Order] of an operator.
//
// Build functions, folds and conditions are pure, and run once: their results are
// stored, and reading a saga runs none of them.
//
// # How it is built
//
// [Definition.Compile] checks a definition and turns it into a [Program], whose
// Decide is a pure function. The [Engine] takes what has arrived for many sagas,
// decides, and writes all of it in one transaction. [Reader] reads sagas, their
// histories and lists of them.
package saga
