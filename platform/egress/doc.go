// Package egress guards connections to addresses that somebody else chose, such as
// the sink of a webhook: without it, whoever may name a URL can reach what only this
// machine can (server-side request forgery).
//
// The guard judges the address that a connection is about to be made to, after the
// name was resolved and for every attempt. A name that resolves to something harmless
// when it is checked and to something else when it is dialled gets nowhere, and nor does
// an address in any of the spellings that a resolver takes.
package egress
