package wire

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/gateway"
	"github.com/countermand/countermand/platform/saga"
)

// operations shows sagas as the gateway's operations.
type operations struct{ reader *saga.Reader }

// Get implements [gateway.Operations].
func (o operations) Get(ctx context.Context, id string) (gateway.Operation, error) {
	in, revision, err := o.reader.Get(ctx, id)
	if err != nil {
		if errors.Is(err, saga.ErrNotFound) {
			return gateway.Operation{}, gateway.ErrNotFound
		}
		return gateway.Operation{}, err
	}
	return operation(&in, revision), nil
}

// Changed implements [gateway.Operations].
func (o operations) Changed(ctx context.Context, seen []gateway.Seen) ([]gateway.Operation, error) {
	sagas := make([]saga.Seen, len(seen))
	for i, s := range seen {
		sagas[i] = saga.Seen(s)
	}
	changed, err := o.reader.Changed(ctx, sagas)
	if err != nil {
		return nil, err
	}
	all := make([]gateway.Operation, len(changed))
	for i := range changed {
		all[i] = operation(&changed[i].Instance, changed[i].Revision)
	}
	return all, nil
}

// List implements [gateway.Operations].
func (o operations) List(ctx context.Context, filter gateway.OperationFilter) (gateway.OperationPage, error) {
	commands, err := startTypes()
	if err != nil {
		return gateway.OperationPage{}, err
	}
	definitions := make([]string, 0, len(commands))
	for definition, command := range commands {
		for _, wanted := range filter.Commands {
			if wanted == command {
				definitions = append(definitions, definition)
			}
		}
	}
	page, err := o.reader.List(ctx, saga.Filter{
		Definitions: definitions, Tenant: filter.Tenant, Unowned: filter.Tenant == "", Status: saga.Status(filter.Status),
		CreatedAfter: filter.CreatedAfter, CreatedBefore: filter.CreatedBefore, Cursor: filter.Cursor, Limit: filter.Limit,
	})
	if errors.Is(err, saga.ErrBadCursor) {
		return gateway.OperationPage{}, gateway.ErrBadCursor
	} else if err != nil {
		return gateway.OperationPage{}, err
	}
	out := gateway.OperationPage{Next: page.Next, Operations: make([]gateway.Operation, len(page.Sagas))}
	for i, s := range page.Sagas {
		out.Operations[i] = gateway.Operation{
			ID: s.ID, Status: gateway.Status(s.Status), Saga: &gateway.SagaVersion{Name: s.Name, Version: s.Version},
			Command: commands[s.Name], CreatedAt: s.CreatedAt, UpdatedAt: s.UpdatedAt,
		}
	}
	return out, nil
}

func operation(in *saga.Instance, revision int64) gateway.Operation {
	op := gateway.Operation{
		ID: in.ID, Status: gateway.Status(in.Status), Saga: &gateway.SagaVersion{Name: in.Name, Version: in.Version},
		Result: in.Result, CreatedAt: in.CreatedAt, UpdatedAt: in.UpdatedAt,
		Command: in.StartType, Fingerprint: in.Fingerprint, Steps: make([]gateway.StepProgress, len(in.Steps)),
		Revision: revision, Pivoted: in.Pivoted, Tenant: in.Tenant, Rejection: rejection(in.Failure),
	}
	for i, step := range in.Steps {
		op.Steps[i] = gateway.StepProgress{Name: step.Name, Status: string(step.Status), Attempts: step.Do.Attempts}
	}
	return op
}

func rejection(failure *saga.Failure) *events.Rejection {
	if failure == nil {
		return nil
	}
	return &events.Rejection{Code: failure.Code, Message: failure.Message}
}

// outcomeOf makes an operation of the event by which a saga tells its end, as far
// as it goes.
func outcomeOf(event *events.Event) (gateway.Operation, bool) {
	var outcome saga.Outcome
	if err := json.Unmarshal(event.Data, &outcome); err != nil || outcome.ID == "" {
		return gateway.Operation{}, false
	}
	return gateway.Operation{
		ID: outcome.ID, Status: gateway.Status(outcome.Status), Result: outcome.Result,
		Saga: &gateway.SagaVersion{Name: outcome.Saga, Version: outcome.Version}, Rejection: rejection(outcome.Failure),
	}, true
}
