// Package order is the sample shop's order service. It keeps the orders, in
// obedience to the commands of shop.order, tells what became of each as a fact,
// and answers over HTTP. Its read model, one row per customer, follows those
// facts through a watermill router, as another service's would.
package order
