// Package ai holds the words that everything about calls of AI models shares: who
// calls ([Caller]), which call it is ([CallID]), what a model has used ([Usage]) and
// what that costs ([NanoUSD]).
//
// Package price knows what a model charges, and package budget keeps a call from
// costing more than somebody has allowed, and the books of what it did cost.
package ai
