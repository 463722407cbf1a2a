// Package inventory is the sample shop's stock service. It prices and holds the
// stock of an order, gives it back, or takes it off the shelf, and takes back what
// was sold, in obedience to the commands of shop.inventory, and answers over HTTP
// what is on hand.
package inventory
