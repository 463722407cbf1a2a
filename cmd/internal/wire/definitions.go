package wire

import (
	"fmt"
	"os"
	"time"

	"github.com/countermand/countermand/events/ai"
	"github.com/countermand/countermand/events/shop"
	aioperation "github.com/countermand/countermand/platform/ai/operation"
	"github.com/countermand/countermand/platform/saga"
	"github.com/countermand/countermand/sagas/checkout"
	"github.com/countermand/countermand/sagas/fulfilment"
	"github.com/countermand/countermand/sagas/returns"
	"github.com/countermand/countermand/sagas/review"
)

// Definitions lists the sagas that the engine drives. Add yours here.
func Definitions() []saga.Compiler {
	return []saga.Compiler{checkout.Saga, returns.Saga, reviewSaga(), fulfilment.Saga, aioperation.Saga}
}

// internalStarts are commands that start a saga and that only other sagas or the AI
// route may send: clients cannot.
var internalStarts = map[string]bool{shop.RequestFulfilment.Type(): true, ai.RequestCompletion.Type(): true}

// reviewSaga returns the review saga with the time that
// COUNTERMAND_REVIEW_WITHIN gives a person to decide.
func reviewSaga() saga.Compiler {
	const variable = "COUNTERMAND_REVIEW_WITHIN"
	within := review.Within
	if text := os.Getenv(variable); text != "" {
		var err error
		if within, err = time.ParseDuration(text); err != nil || within <= 0 {
			return invalid{fmt.Errorf("%s %q: want a duration such as 24h or 90m", variable, text)}
		}
	}
	return review.New(within)
}

// invalid stands for a saga that cannot be defined, and tells why when it is
// compiled with the others.
type invalid struct{ err error }

// Compile implements [saga.Compiler].
func (i invalid) Compile() (*saga.Program, error) { return nil, i.err }
