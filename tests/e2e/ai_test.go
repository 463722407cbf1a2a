package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/countermand/countermand/tests/internal/product"
)

const asJSON = "Content-Type: application/json"

// aiUsage is what the books say of some calls.
type aiUsage struct {
	Tenant    string `json:"tenant"`
	Settled   int    `json:"settled"`
	Released  int    `json:"released"`
	Uncertain int    `json:"uncertain"`
	Cost      int64  `json:"cost_nano_usd"`
}

// used returns the sums of calls, one for each tenant.
func used(t *testing.T, query url.Values) (rows []aiUsage) {
	t.Helper()
	query.Set("by", "tenant,"+query.Get("by"))
	var list struct {
		Usage []struct {
			aiUsage
			Model string `json:"model"`
		} `json:"usage"`
	}
	operatorRead(t, http.MethodGet, "/admin/v1/ai/usage?"+query.Encode(), "", &list)
	for _, row := range list.Usage {
		if want := query.Get("model"); want == "" || row.Model == want {
			rows = append(rows, row.aiUsage)
		}
	}
	return rows
}

func operatorAnswer(t *testing.T, method, path, body string) product.Answer {
	t.Helper()
	answer, err := operator.Do(t.Context(), method, path, body, asJSON)
	if err != nil {
		t.Fatal(err)
	}
	if answer.Status >= 300 {
		t.Fatalf("%s %s answers %s", method, path, answer)
	}
	return answer
}

// operatorRead reads of an answer what into has.
func operatorRead(t *testing.T, method, path, body string, into any) {
	t.Helper()
	if err := json.Unmarshal(operatorAnswer(t, method, path, body).Body, into); err != nil {
		t.Fatal(err)
	}
}

// asked is the result of an operation that is a call of a model.
type asked struct {
	CallID   string          `json:"call_id"`
	Attempts int             `json:"attempts"`
	Body     json.RawMessage `json:"body"`
	Output   json.RawMessage `json:"output"`
	Cost     int64           `json:"cost_nano_usd"`
}

// comparable returns an answer without what is different each time.
func comparable(t *testing.T, body []byte) map[string]any {
	t.Helper()
	var answer map[string]any
	if err := json.Unmarshal(body, &answer); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	for _, name := range []string{"id", "created", "created_at"} {
		delete(answer, name)
	}
	if items, ok := answer["output"].([]any); ok { // of responses
		for _, item := range items {
			delete(item.(map[string]any), "id")
		}
	}
	return answer
}

// A client that does not wait gets what it would have waited for, and pays once however
// often it asks under one key. Nobody asks for a credential here, so all of it is the
// default tenant's.
func TestAnAICallThatIsNotWaitedForIsAnOperation(t *testing.T) {
	t.Parallel()
	for path, test := range map[string]struct{ model, body string }{
		"chat/completions": {"sim-slow-21ms", `{"model":"sim-slow-21ms","max_tokens":20,"messages":[{"role":"user","content":"hello"}]}`},
		"embeddings":       {"sim-slow-22ms", `{"model":"sim-slow-22ms","input":"hello"}`},
		"messages":         {"sim-slow-23ms", `{"model":"sim-slow-23ms","max_tokens":20,"messages":[{"role":"user","content":"hello"}]}`},
		"responses":        {"sim-slow-24ms", `{"model":"sim-slow-24ms","input":"hello"}`},
		"prompts/summary":  {"", `{"text":"A text of some length about nothing much.","sentences":1}`},
	} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			waited := request(t, http.MethodPost, "/ai/v1/"+path, test.body, asJSON)
			if waited.Status != http.StatusOK || waited.Header.Get("X-Ai-Call-Id") == "" {
				t.Fatalf("answered %s", waited)
			}
			key := `Idempotency-Key: "` + path + `"`
			ids := make([]string, 5)
			var posts sync.WaitGroup
			for i := range ids {
				posts.Go(func() {
					answer, err := shop.Do(t.Context(), http.MethodPost, "/ai/v1/"+path, test.body, asJSON, "Prefer: respond-async", key)
					if err != nil || answer.Status != http.StatusAccepted || answer.Header.Get("Preference-Applied") != "respond-async" {
						t.Errorf("answered %s, %v", answer, err)
						return
					}
					ids[i] = answer.Header.Get("Location")
				})
			}
			posts.Wait()
			for _, id := range ids {
				if id == "" || id != ids[0] {
					t.Fatalf("one key makes the operations %v", ids)
				}
			}
			id := ids[0][len("/v1/operations/"):]
			finished(t, id, "completed")
			var op struct {
				Result asked `json:"result"`
			}
			if err := json.Unmarshal(get(t, ids[0]).Body, &op); err != nil {
				t.Fatal(err)
			}
			got := op.Result
			if got.CallID == "" || got.Attempts != 1 || got.Cost <= 0 {
				t.Errorf("the result is %+v", got)
			}
			if test.model == "" { // a prompt
				want := comparable(t, waited.Body)["output"]
				var output any
				if err := json.Unmarshal(got.Output, &output); err != nil || !reflect.DeepEqual(output, want) {
					t.Errorf("the output is %s, want %v", got.Output, want)
				}
				return
			}
			if !reflect.DeepEqual(comparable(t, got.Body), comparable(t, waited.Body)) {
				t.Errorf("the result is\n%s, want\n%s", got.Body, waited.Body)
			}
			again := request(t, http.MethodPost, "/ai/v1/"+path, test.body, asJSON, "Prefer: respond-async", key)
			if again.Header.Get("Location") != ids[0] {
				t.Errorf("sent again after its end it is %s", again)
			}
			err := product.Await(t.Context(), endTimeout, func() error {
				rows := used(t, url.Values{"by": {"model"}, "model": {test.model}})
				if want := []aiUsage{{Tenant: "default", Settled: 2, Cost: 2 * got.Cost}}; !reflect.DeepEqual(rows, want) {
					return fmt.Errorf("the books have %+v, want %+v", rows, want)
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAnAICallThatCannotBeMadeIsRefusedBeforeItIsAccepted(t *testing.T) {
	t.Parallel()
	for path, body := range map[string]string{
		"chat/completions":  `{"model":"no-such-model","messages":[{"role":"user","content":"hello"}]}`,
		"prompts/none":      `{}`,
		"prompts/sentiment": `{"txt":"misspelt"}`,
	} {
		answer := request(t, http.MethodPost, "/ai/v1/"+path, body, asJSON, "Prefer: respond-async")
		if answer.Status != http.StatusNotFound && answer.Status != http.StatusUnprocessableEntity {
			t.Errorf("%s: %s", path, answer)
		}
	}
}

// What nobody knows the price of is refused to those who have a budget, and never
// counted as if it cost nothing.
func TestWhatHasNoPriceIsRefusedWithinABudget(t *testing.T) {
	t.Parallel()
	const budget = "/admin/v1/ai/budgets/e2e-default"
	operatorAnswer(t, http.MethodPut, budget, `{"tenant":"default","unit":"usd","period":"day","limit":1000000000000000}`)
	defer operatorAnswer(t, http.MethodDelete, budget, "")
	for path, body := range map[string]string{
		"chat/completions": `{"model":"sim-echo","messages":[{"role":"user","content":[{"type":"input_audio","input_audio":{"data":"","format":"wav"}}]}]}`,
		"responses":        `{"model":"sim-echo","input":"x","tools":[{"type":"web_search"}]}`,
		"messages":         `{"model":"sim-echo","max_tokens":5,"messages":[{"role":"user","content":[{"type":"text","text":"x","cache_control":{"type":"ephemeral","ttl":"1h"}}]}]}`,
	} {
		err := product.Await(t.Context(), endTimeout, func() error { // until the budget is known
			if answer := request(t, http.MethodPost, "/ai/v1/"+path, body, asJSON); answer.Status != http.StatusUnprocessableEntity || !strings.Contains(string(answer.Body), "price_unknown") {
				return fmt.Errorf("%s: %s", path, answer)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		id := accepted(t, request(t, http.MethodPost, "/ai/v1/"+path, body, asJSON, "Prefer: respond-async"))
		if op := finished(t, id, "compensated"); op.Error == nil || op.Error.Code != "price_unknown" {
			t.Errorf("%s ends with %+v", path, op.Error)
		}
	}
}
