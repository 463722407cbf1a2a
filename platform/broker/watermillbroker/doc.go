// Package watermillbroker puts watermill's Publisher and Subscriber on top of
// any [broker.Broker], so that its routers, middleware and CQRS components run
// on the topics of this platform:
//
//	subscriber := watermillbroker.NewSubscriber(b, watermillbroker.SubscriberConfig{Group: "summary"})
//	router.AddConsumerHandler("summary", "shop.order.events", subscriber, handle)
//
// A message is an event: its UUID is the event's id, its payload the event's
// data, and its metadata holds the attributes as the keys ce-source, ce-type and
// so on, percent-encoded as in the header of a NATS or HTTP message;
// [EventOf] and [MessageOf] convert. Metadata that is no attribute travels
// along in one extension.
//
// Order holds within a partition key (the metadata ce-partitionkey): a
// subscriber has one unacknowledged message per partition in flight, and a
// message that is not acknowledged holds its partition back until it is.
//
// Delivery is at least once. Unlike package consumer this one knows no inbox and
// no transaction: handlers recognise an event that comes again by its source and
// id themselves.
package watermillbroker
