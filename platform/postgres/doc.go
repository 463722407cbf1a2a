// Package postgres opens connection pools with the limits this project relies
// on, runs functions in transactions whose outcome is told honestly, and keeps
// schemas current with embedded, forward-only migrations.
package postgres
