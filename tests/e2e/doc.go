// Package e2e tests one running `countermand dev` from outside: over HTTP, by
// its command line and by its signals. It knows nothing of the code behind.
//
// Most tests share the process that TestMain starts. Tests that count what the
// whole shop did are not parallel, so they have the shop to themselves; the
// parallel ones run after them.
package e2e
