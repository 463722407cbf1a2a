// Package payment is the sample shop's payment service. It authorizes, captures,
// voids and refunds card payments in obedience to the commands of shop.payment, and
// answers over HTTP how the payment of an order stands.
//
// The card processor is a built-in simulation that the card's token drives, from
// [TokenOK] to [TokenNever]. Answers that it does not give at once are stored with
// the time they are due and sent by [Service.Run], so none is lost with the process.
package payment
