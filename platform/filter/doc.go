// Package filter tells which events a follower or a subscription wants. A filter is
// written in the dialects of the CloudEvents Subscriptions API (exact, prefix, suffix,
// all, any, not and sql) or in query parameters, compiled once with every fault named
// by its place, and evaluated for each event.
package filter
