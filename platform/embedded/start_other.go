//go:build !unix

package embedded

import "context"

const superuser = "postgres"

// endpoint and serverProcess exist here only for Postgres to have the same
// methods everywhere: no value of it is ever made on these systems.
type endpoint struct{}

func (endpoint) url(string, string, string) string { return "" }

type serverProcess struct{ done chan struct{} }

func (*serverProcess) exitError() error { return nil }

func (*serverProcess) stop(context.Context) error { return nil }

func startPostgres(context.Context, PostgresConfig) (*Postgres, error) {
	return nil, ErrUnsupported
}

func removePostgres(context.Context, string) error {
	return ErrUnsupported
}
