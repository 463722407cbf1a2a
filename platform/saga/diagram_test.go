package saga_test

import (
	"testing"

	"github.com/countermand/countermand/platform/saga"
)

func TestMermaid(t *testing.T) {
	for name, d := range map[string]saga.Definition[trip]{
		"pivot.mmd":    define(alpha(), note(), beta(), pivot(gamma()), delta()),
		"no-pivot.mmd": define(alpha(), beta()),
		"forward.mmd":  define(pivot(alpha()), delta()),
	} {
		program, err := d.Compile()
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name, program.Mermaid())
	}
}
