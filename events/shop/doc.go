// Package shop holds the contracts of the sample shop: what the gateway, the
// sagas and the order, payment and inventory services say to each other. Replace
// this package with your own when you keep the platform.
//
// Money is an integer number of minor units (cents for EUR); an order, its
// reservation and its payment all carry the id of the saga that made them.
// The JSON Schemas in schemas/ are generated from these types by
// `go test ./shop -update`; the test fails when they drift.
package shop
