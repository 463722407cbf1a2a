package payment

// Refund lets tests refund in a transaction of their own.
var Refund = (*Service).refund
