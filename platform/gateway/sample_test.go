package gateway

import (
	"encoding/json"
	"fmt"
	"testing"
)

// What the docs page proposes to send is what the schema takes.
func TestSamplesAreValid(t *testing.T) {
	for _, schema := range []string{
		`{"type":"object","required":["c","i","at","on"],"additionalProperties":false,"properties":{
			"c":{"type":"string","pattern":"^[A-Z]{3}$"},"at":{"type":"string","format":"date-time"},"on":{"type":"boolean"},"left":{"type":"string"},
			"i":{"type":"array","minItems":1,"items":{"type":"object","required":["n","k"],"properties":{"n":{"type":"integer","minimum":3},"k":{"enum":["b"]}}}}}}`,
		`{"type":"string","minLength":5}`,
		`{"type":"string","minLength":3,"pattern":"^[a-z0-9._-]+$"}`,
		`{"type":"string","pattern":"^(tok|key)_[^_]*\\d?(x|y){2,4}$"}`,
		`{"type":"string","format":"uuid"}`, `{"const":7}`, `{"type":"integer","examples":[42]}`, `{"type":"array"}`, `{"type":"number"}`,
	} {
		c, err := compileContract(Command{Type: "test.thing.do.v1", Topic: "test.thing.commands", Schema: []byte(schema)})
		if err != nil {
			t.Fatal(err)
		}
		var decoded any
		if err := json.Unmarshal([]byte(schema), &decoded); err != nil {
			t.Fatal(err)
		}
		sample, err := json.Marshal(sampleOf(decoded))
		if err != nil {
			t.Fatal(err)
		}
		if _, problem := c.decode(sample); problem != nil {
			t.Errorf("%s\nsample %s: %s", schema, sample, fmt.Sprint(problem.Errors))
		}
	}
}
