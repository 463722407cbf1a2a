// Package embeddedtest gives tests real servers: a PostgreSQL database of its
// own for each test that asks for one, and in-process NATS servers.
//
// The databases of one test process live on one server. That is the server
// whose admin URL is in COUNTERMAND_TEST_DATABASE_URL, which the command
// withpostgres sets for a whole run of go test, or else a private one that
// starts with the first database asked for. withpostgres names the server's version
// besides, in COUNTERMAND_TEST_DATABASE_SERVER: the address is another one in each run,
// and go test takes results from its cache all the same. Either way the package needs
//
//	func TestMain(m *testing.M) { embeddedtest.Main(m) }
//
// A server that cannot be had fails the test; it is never skipped.
package embeddedtest
