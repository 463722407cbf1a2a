// Command ai runs what keeps the money of AI calls and makes them for sagas, as a
// process of its own. It is configured by environment variables, see
// docs/reference/configuration.md.
package main

import (
	"os"

	"github.com/countermand/countermand/cmd/internal/wire"
)

func main() { os.Exit(wire.Main(wire.AI)) }
