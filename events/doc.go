// Package events holds the words that services, sagas and the gateway share:
// the Event that travels, the Command and Fact contracts that give events a
// Go type, and the CloudEvents header codecs that put them on a wire.
//
// A contract is one Go value. A command names its type, its request, its reply
// and the codes it may be rejected with; the engine that sends it and the
// participant that obeys it use the same value, so they cannot drift apart:
//
//	var ReserveStock = events.NewCommand[ReserveStockRequest, StockReserved](
//		"shop.inventory.reserve.v1", OutOfStock, UnknownSKU)
//
// # Names
//
// A type is dotted lower-case: domain, verb or past participle, version, for
// example shop.inventory.reserve.v1 (a command, imperative) or
// shop.order.confirmed.v1 (a fact, past tense). The topic follows from the
// type: commands of shop.inventory go to shop.inventory.commands and its facts
// to shop.inventory.events.
//
// The package does no I/O and imports no broker, no database and no framework.
package events
