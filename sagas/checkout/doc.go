// Package checkout is the sample shop's saga: it places an order, reserves and
// prices its stock, takes the money, and undoes all of it when one of them
// cannot be had.
//
// Nothing here but package events/shop is special to the shop, and nothing at
// all to this repository: replace the package with your own sagas.
package checkout
