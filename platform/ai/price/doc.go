// Package price knows what the models of providers cost.
//
// A [Book] is the catalogue that is built in, with prices from an openly licensed
// source whose version it tells, under an overlay file of the operator's. What neither
// knows has no price, which is not the same as being free: [Book.Lookup] says so, and
// package budget refuses it to those who have a budget.
//
// List prices are what the source has read off the providers' pages. Its authors do
// not promise that they are exact, and discounts, batch prices and fees for tools are
// in none of them; an overlay may state what you really pay.
package price
