package sagatest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/saga"
)

// Option tells more about the world in which a saga is tested. Without any,
// participants answer with made-up values of their reply types.
type Option func(*setup)

// setup is what the options of a test amount to.
type setup struct {
	programs  []*saga.Program // the first is the one under test
	replies   map[string]responder
	requests  map[string]func(*rand.Rand) any
	signals   map[string]func(*rand.Rand) any
	fresh     []func() []Option
	checks    []func([]saga.Instance) error
	pool      *pgxpool.Pool // nil: local steps are not run
	rowChecks []func(context.Context, pgx.Tx, []saga.Instance) error
	sagas     int
	flaw      Flaw
	err       error // of a definition
}

// responder is a participant's handler without its type parameters.
type responder func(request []byte) (reply []byte, rejection *events.Rejection, err error)

// Reply has the participant answer that command by answer: with a reply, or with a
// rejection when it returns the error of [events.Reject]. answer is called once for
// each command that takes effect, as a participant with an inbox would; that of a
// compensation is called when there is something to undo.
func Reply[Q, R any](command events.Command[Q, R], answer func(request Q) (R, error)) Option {
	return func(s *setup) {
		s.replies[command.Type()] = func(data []byte) ([]byte, *events.Rejection, error) {
			var request Q
			if err := json.Unmarshal(data, &request); err != nil {
				return nil, nil, fmt.Errorf("decode the request of %s: %w", command.Type(), err)
			}
			reply, err := answer(request)
			if rejection, ok := errors.AsType[*events.Rejection](err); ok {
				return nil, rejection, nil
			}
			if err != nil {
				return nil, nil, fmt.Errorf("answer %s: %w", command.Type(), err)
			}
			data, err = json.Marshal(reply)
			return data, nil, err
		}
	}
}

// Request makes the requests by which sagas begin.
func Request[Q, R any](command events.Command[Q, R], request func(*rand.Rand) Q) Option {
	return func(s *setup) { s.requests[command.Type()] = func(r *rand.Rand) any { return request(r) } }
}

// Payload makes the payloads of a fact that is awaited.
func Payload[T any](fact events.Fact[T], payload func(*rand.Rand) T) Option {
	return func(s *setup) { s.signals[fact.Type()] = func(r *rand.Rand) any { return payload(r) } }
}

// With adds definitions of which the one under test starts sagas. Without it such
// a child is answered by a made-up result.
func With(definitions ...saga.Compiler) Option {
	return func(s *setup) {
		for _, d := range definitions {
			s.compile(d)
		}
	}
}

// Fresh calls options anew for each run, so that what their functions share, such
// as the stock of a simulated shop, begins anew with it.
func Fresh(options func() []Option) Option {
	return func(s *setup) { s.fresh = append(s.fresh, options) }
}

// Check looks at all sagas at the end of a run, when each has ended.
func Check(check func(sagas []saga.Instance) error) Option {
	return func(s *setup) { s.checks = append(s.checks, check) }
}

// Sagas sets how many sagas a run has at most: 2 by default.
func Sagas(most int) Option { return func(s *setup) { s.sagas = most } }

// newSetup returns what options amount to for one run.
func newSetup(definition saga.Compiler, options []Option) *setup {
	s := &setup{
		replies: make(map[string]responder), requests: make(map[string]func(*rand.Rand) any), signals: make(map[string]func(*rand.Rand) any),
		sagas: 2,
	}
	s.compile(definition)
	for _, option := range options {
		option(s)
	}
	if one := s.run(); one.pool == nil && len(one.rowChecks) > 0 {
		s.err = errors.Join(s.err, errors.New("CheckRows has no database to look at: give Database as well"))
	}
	return s
}

// run returns the setup of one run.
func (s *setup) run() *setup {
	if len(s.fresh) == 0 {
		return s
	}
	one := *s
	one.replies, one.checks, one.rowChecks = maps.Clone(s.replies), slices.Clone(s.checks), slices.Clone(s.rowChecks)
	for _, fresh := range s.fresh {
		for _, option := range fresh() {
			option(&one)
		}
	}
	return &one
}

func (s *setup) compile(d saga.Compiler) {
	p, err := d.Compile()
	if err != nil {
		s.err = errors.Join(s.err, err)
		return
	}
	s.programs = append(s.programs, p)
}
