package operate

import (
	"cmp"
	_ "embed"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/budget"
	"github.com/countermand/countermand/platform/ai/price"
	"github.com/countermand/countermand/platform/ai/prompt"
	"github.com/countermand/countermand/platform/answer"
)

//go:embed openapi.json
var document []byte

// Config of [Register]. Keeper and Prices are required.
type Config struct {
	Keeper *budget.Keeper
	Prices *price.Book
	// Prompts may be nil: none are looked after then.
	Prompts *prompt.Store
	// Protect wraps handlers, such as admin.Protect does against other sites; nil: nothing.
	Protect func(http.Handler) http.Handler
	Logger  *slog.Logger
}

// Register adds the API to mux.
func Register(mux *http.ServeMux, config Config) {
	if config.Protect == nil {
		config.Protect = func(next http.Handler) http.Handler { return next }
	}
	a := api{config}
	if config.Prompts != nil {
		a.registerPrompts(mux)
	}
	for pattern, handle := range map[string]func(http.ResponseWriter, *http.Request) error{
		"GET /admin/v1/ai/budgets":                      a.budgets,
		"GET /admin/v1/ai/budgets/{id}":                 a.budget,
		"PUT /admin/v1/ai/budgets/{id}":                 a.put,
		"DELETE /admin/v1/ai/budgets/{id}":              a.delete,
		"GET /admin/v1/ai/usage":                        a.usage,
		"GET /admin/v1/ai/uncertain":                    a.uncertain,
		"POST /admin/v1/ai/uncertain/{call}/{attempt}":  a.resolve,
		"GET /admin/v1/ai/prices/{provider}/{model...}": a.price,
		"GET /admin/ai/openapi.json": func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(document) // the client is gone when this fails
			return nil
		},
	} {
		mux.Handle(pattern, config.Protect(answering(config.Logger, handle)))
	}
}

type api struct{ Config }

// BudgetList is the body of a list of budgets.
type BudgetList struct {
	Budgets []budget.PeriodStatus `json:"budgets"`
	// Next continues the list as ?after=; absent on the last page.
	Next string `json:"next,omitempty"`
}

func (a api) budgets(w http.ResponseWriter, r *http.Request) error {
	limit, err := answer.Number(r, "limit", 100, 1000)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	found, err := a.Keeper.Budgets(r.Context(), budget.Filter{Tenant: q.Get("tenant"), App: q.Get("app"), Key: q.Get("key"), After: q.Get("after"), Limit: limit})
	if err != nil {
		return err
	}
	list := BudgetList{Budgets: append([]budget.PeriodStatus{}, found...)} // an empty list is [] in JSON
	if len(found) == limit {
		list.Next = found[limit-1].Budget.ID
	}
	return answer.JSON(w, http.StatusOK, list)
}

func (a api) budget(w http.ResponseWriter, r *http.Request) error {
	found, err := a.Keeper.Budgets(r.Context(), budget.Filter{ID: r.PathValue("id")})
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return answer.No(http.StatusNotFound, "not_found", "there is no budget of this id")
	}
	return answer.JSON(w, http.StatusOK, found[0])
}

func (a api) put(w http.ResponseWriter, r *http.Request) error {
	var b budget.Budget
	if err := answer.Read(w, r, &b, bodyBytesMax); err != nil {
		return err
	}
	id := r.PathValue("id")
	if b.ID = cmp.Or(b.ID, id); b.ID != id {
		return answer.No(http.StatusUnprocessableEntity, "invalid_budget", "the id in the body is not that of the path")
	}
	if err := a.Keeper.Put(r.Context(), b); err != nil {
		return err
	}
	return a.budget(w, r)
}

func (a api) delete(w http.ResponseWriter, r *http.Request) error {
	if err := a.Keeper.Delete(r.Context(), r.PathValue("id")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// UsageList is the body of a report.
type UsageList struct {
	From  time.Time         `json:"from"`
	To    time.Time         `json:"to"`
	Usage []budget.UsageRow `json:"usage"`
}

func (a api) usage(w http.ResponseWriter, r *http.Request) error {
	limit, err := answer.Number(r, "limit", 100, 1000)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	now := time.Now().UTC()
	list := UsageList{From: now.Add(-24 * time.Hour).Truncate(time.Hour), To: now.Truncate(time.Hour).Add(time.Hour)}
	for name, at := range map[string]*time.Time{"from": &list.From, "to": &list.To} {
		if text := q.Get(name); text != "" {
			if *at, err = time.Parse(time.RFC3339, text); err != nil {
				return answer.No(http.StatusBadRequest, "invalid_"+name, name+" must be a time such as 2026-11-01T00:00:00Z")
			}
		}
	}
	by := strings.FieldsFunc(q.Get("by"), func(c rune) bool { return c == ',' })
	if q.Get("by") == "" {
		by = []string{"tenant", "model"}
	}
	found, err := a.Keeper.Usage(r.Context(), budget.UsageFilter{
		From: list.From, To: list.To, Tenant: q.Get("tenant"), App: q.Get("app"), Key: q.Get("key"), By: by, Limit: limit,
	})
	if err != nil {
		return err
	}
	list.Usage = append([]budget.UsageRow{}, found...)
	return answer.JSON(w, http.StatusOK, list)
}

// UncertainList is the body of a list of uncertain attempts.
type UncertainList struct {
	Uncertain []budget.Open `json:"uncertain"`
}

func (a api) uncertain(w http.ResponseWriter, r *http.Request) error {
	limit, err := answer.Number(r, "limit", 100, 1000)
	if err != nil {
		return err
	}
	found, err := a.Keeper.Uncertain(r.Context(), limit)
	if err != nil {
		return err
	}
	return answer.JSON(w, http.StatusOK, UncertainList{append([]budget.Open{}, found...)})
}

// Resolution is the body that ends an uncertain attempt.
type Resolution struct {
	// CostUSD is what it has cost, such as "0.05"; nothing when empty.
	CostUSD string `json:"cost_usd,omitempty"`
	Note    string `json:"note,omitempty"`
}

func (a api) resolve(w http.ResponseWriter, r *http.Request) error {
	var body Resolution
	if err := answer.Read(w, r, &body, bodyBytesMax); err != nil {
		return err
	}
	call, err := ai.ParseCallID(r.PathValue("call"))
	if err != nil {
		return answer.No(http.StatusNotFound, "not_found", err.Error())
	}
	attempt, err := strconv.Atoi(r.PathValue("attempt"))
	if err != nil || attempt < 1 || attempt > 1<<15-1 {
		return answer.No(http.StatusNotFound, "not_found", "attempts are numbered from 1")
	}
	var cost *ai.NanoUSD
	if body.CostUSD != "" {
		amount, err := ai.ParseUSD(body.CostUSD)
		if err != nil {
			return answer.No(http.StatusUnprocessableEntity, "invalid_cost", "cost_usd: "+err.Error())
		}
		cost = &amount
	}
	if err := a.Keeper.Resolve(r.Context(), call, attempt, cost, body.Note); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// Price is the body that tells what a model costs, in billionths of a dollar for a
// million tokens, as far as rates do not depend on the size of the input.
type Price struct {
	Model   string `json:"model"`
	Version string `json:"version"`
	price.Rates
}

func (a api) price(w http.ResponseWriter, r *http.Request) error {
	m := ai.Model{Provider: r.PathValue("provider"), Name: r.PathValue("model")}
	p, ok := a.Prices.Lookup(m, time.Now())
	if !ok {
		return answer.No(http.StatusNotFound, "price_unknown", m.String()+" has no price in "+a.Prices.Version()+"; state one in the price overlay")
	}
	return answer.JSON(w, http.StatusOK, Price{p.Model, p.Version, p.Rates()})
}
