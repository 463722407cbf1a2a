// Package fulfilment is the saga that makes an order final whose stock and payment
// are held: it takes the money, takes the stock off the shelf and confirms the
// order. It is a child of other sagas, which hold stock and payment and let them go
// when it is rejected.
package fulfilment
