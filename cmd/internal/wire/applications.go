package wire

import (
	"log/slog"
	"reflect"
	"slices"
	"strings"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/events/ai"
	"github.com/countermand/countermand/events/asyncapi"
	"github.com/countermand/countermand/events/schema"
	"github.com/countermand/countermand/events/shop"
	"github.com/countermand/countermand/platform/ai/participant"
	"github.com/countermand/countermand/platform/broker/natsbroker"
	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/saga"
	"github.com/countermand/countermand/services/inventory"
	"github.com/countermand/countermand/services/order"
	"github.com/countermand/countermand/services/payment"
)

// Schemas returns the JSON Schemas of the contracts.
func Schemas() ([]schema.Schema, error) { return schema.Of(Contracts()...) }

// AsyncAPI returns the AsyncAPI document of the roles on a broker: of all, or of
// those that are named.
func AsyncAPI(on asyncapi.Broker, roles ...string) ([]byte, error) {
	all, err := applications()
	if err != nil {
		return nil, err
	}
	if len(roles) > 0 {
		all = slices.DeleteFunc(all, func(a asyncapi.Application) bool { return !slices.Contains(roles, a.Name) })
	}
	return asyncapi.System{
		Title: "Countermand and its sample shop", Version: "1",
		Description:  "Commands, replies and facts between the gateway, the saga engine and the services, as CloudEvents 1.0 in binary content mode.",
		Partitions:   natsbroker.DefaultPartitions,
		Applications: all,
	}.Document(on)
}

// observed and emitted are the facts that services read and tell, which their
// handlers of commands do not show.
var (
	observed = map[string][]events.Contract{
		Order: {shop.OrderPlaced, shop.OrderConfirmed, shop.OrderCancelled},
	}
	emitted = map[string][]events.Contract{
		Order: {shop.OrderPlaced, shop.OrderConfirmed, shop.OrderCancelled, shop.OrderReturned},
		AI: {
			ai.UsageRecorded, ai.CallReleased, ai.CallUncertain, ai.ThresholdReached, ai.Exhausted, ai.Reserved, ai.Released,
			ai.PromptPublished, ai.PromptChannelMoved,
		},
	}
)

// applications tells what each role says and hears: from the definitions, the
// handlers of the services, and the two tables above.
func applications() ([]asyncapi.Application, error) {
	gateway := asyncapi.Application{Name: Gateway, Description: "Turns HTTP requests into commands and signals, and answers for their outcome."}
	engine := asyncapi.Application{Name: Engine, Description: "Decides what happens next in every saga, and undoes it when a step says no."}
	contracts := make(map[string]events.Descriptor)
	for _, contract := range Contracts() {
		d := contract.Describe()
		contracts[d.Type] = d
	}
	starts, called, awaited := make(map[string]bool), make(map[string]bool), make(map[string]bool)
	for _, definition := range Definitions() {
		program, err := definition.Compile()
		if err != nil {
			return nil, err
		}
		graph := program.Graph()
		start := contracts[graph.Start]
		if starts[start.Type] { // versions of one saga begin with the same command
			walk(&graph.Flow, called, awaited)
			continue
		}
		starts[start.Type] = true
		engine.Handles = append(engine.Handles, start)
		if start.Type == ai.RequestCompletion.Type() { // for clients of the AI route
			gateway.Sends = append(gateway.Sends, start)
		}
		if !internalStarts[start.Type] {
			gateway.Sends = append(gateway.Sends, start)
			engine.Sends = append(engine.Sends, start) // by schedules
		}
		walk(&graph.Flow, called, awaited)
		for _, status := range []saga.Status{saga.Completed, saga.Compensated, saga.Stuck} {
			outcome := events.Descriptor{
				Type: events.OutcomeType(start.Type, string(status)), Topic: events.Outcomes, Kind: events.KindFact, Request: reflect.TypeFor[saga.Outcome](),
			}
			engine.Sends, gateway.Receives = append(engine.Sends, outcome), append(gateway.Receives, outcome)
		}
	}
	for _, contract := range Contracts() { // in their order
		d := contract.Describe()
		switch {
		case called[d.Type]:
			engine.Calls = append(engine.Calls, d)
		case awaited[d.Type]:
			d.Topic = events.Signals
			gateway.Sends, engine.Receives = append(gateway.Sends, d), append(engine.Receives, d)
		case d.Kind == events.KindFact:
			gateway.Receives = append(gateway.Receives, d) // for webhooks
		}
		if undo := events.CompensationType(d.Type); called[undo] { // a child saga is undone as a whole
			d.Type, d.Request, d.Reply, d.Rejections = undo, nil, nil, nil
			engine.Calls, engine.Handles = append(engine.Calls, d), append(engine.Handles, d)
		}
	}
	cancel := events.Descriptor{Type: events.CancelType, Topic: events.Signals, Kind: events.KindFact}
	engine.Receives = append(engine.Receives, cancel)

	all := []asyncapi.Application{gateway, engine}
	quiet := slog.New(slog.DiscardHandler)
	for _, s := range []struct {
		name, description string
		service           interface{ Handlers() []consumer.Handler }
	}{
		{Order, "Keeps the orders.", order.New(nil, quiet)},
		{Payment, "Keeps the payments.", payment.New(nil, nil, quiet)},
		{Inventory, "Keeps the stock.", inventory.New(nil, quiet)},
		{AI, "Calls AI models for sagas, within budgets.", participant.New(nil, participant.Config{Logger: quiet})},
	} {
		a := asyncapi.Application{Name: s.name, Description: s.description}
		for _, handler := range s.service.Handlers() {
			a.Handles = append(a.Handles, handler.Contract())
		}
		a.Sends, a.Receives = describe(emitted[s.name]), describe(observed[s.name])
		all = append(all, a)
	}
	return all, nil
}

func describe(contracts []events.Contract) (all []events.Descriptor) {
	for _, contract := range contracts {
		all = append(all, contract.Describe())
	}
	return all
}

// walk collects the types of the commands that a flow sends and of what it awaits.
func walk(n *saga.GraphNode, called, awaited map[string]bool) {
	for _, command := range []string{n.Command, n.Undo} {
		if strings.Contains(command, ".") { // not a local one
			called[command] = true
		}
	}
	if n.Signal != "" {
		awaited[n.Signal] = true
	}
	for i := range n.Nodes {
		walk(&n.Nodes[i], called, awaited)
	}
}
