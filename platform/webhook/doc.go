// Package webhook delivers events to the HTTP endpoints of subscribers.
//
// A subscription is an object of the CloudEvents Subscriptions API. Before anything is
// sent to its sink, the sink says that it agrees (CloudEvents HTTP WebHook, §4). Every
// request is signed as Standard Webhooks says, with one or two secrets.
//
// A [Matcher] reads topics as any consumer does, and turns each event that a
// subscription wants into a row of its own, in the transaction that moves its
// positions. A [Sender] owns some of the subscriptions, sends what is due to each, and
// records every attempt. So an event is lost neither by the one nor by the other, a sink
// that is slow or dead holds up nobody else, and what was sent but not recorded when a
// process died is sent again, with the same webhook-id.
//
// # Promises
//
//	An event published after a subscription became active   is delivered at least once, or becomes a dead letter
//	The same event of the same subscription                 has the same webhook-id, whenever it is sent
//	A subscription sees                                     events of its own tenant, and of no other
//	A sink that does not say yes                            gets no event
//	With order "key"                                        an event waits until those before it of its key have ended
//	A secret                                                is shown once, stored encrypted and never logged
package webhook
