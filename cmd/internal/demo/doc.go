// Package demo shows the product doing its job under fire: it starts every role
// as a process of its own, places orders of all kinds, kills processes in the
// middle, and then counts stock, money and endings in the services' databases.
package demo
