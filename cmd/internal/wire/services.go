package wire

import (
	"context"
	"net/http"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/fx"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/gateway"
	"github.com/countermand/countermand/platform/payload"
	"github.com/countermand/countermand/services/inventory"
	"github.com/countermand/countermand/services/order"
	"github.com/countermand/countermand/services/payment"
)

// service is what every participant offers to be run.
type service interface {
	Handlers() []consumer.Handler
	HTTP() http.Handler
}

// serviceParts are what it takes to run a participant.
type serviceParts struct {
	fx.In

	Lifecycle lifecycle
	Config    Config
	Process   *Process
	Pool      *pgxpool.Pool
	Broker    broker.Broker
	Send      senders
	At        *endpoint
}

func inventoryGraph() fx.Option {
	return fx.Invoke(func(p serviceParts) error { return p.run(inventory.Name, inventory.New(p.Pool, p.Process.Logger)) })
}

func orderGraph() fx.Option {
	return fx.Invoke(func(p serviceParts) error {
		s := order.New(p.Pool, p.Process.Logger)
		if err := p.run(order.Name, s); err != nil {
			return err
		}
		view, err := s.ReadModel(p.Broker, p.Process.Logger)
		if err != nil {
			return err
		}
		p.Lifecycle.run("order-read-model", view.Run)
		return nil
	})
}

func paymentGraph() fx.Option {
	return fx.Invoke(func(p serviceParts) error {
		s := payment.New(p.Pool, p.Send.Relay.Wake, p.Process.Logger)
		if err := p.run(payment.Name, s); err != nil {
			return err
		}
		p.Lifecycle.run("payment-settler", s.Run)
		return nil
	})
}

// payloadCheck returns what judges the payloads that a role takes in; nil when nothing
// is to.
func payloadCheck(config Config) (func(*events.Event) error, error) {
	if !config.Consumer.CheckPayloads {
		return nil, nil
	}
	schemas, err := Schemas()
	if err != nil {
		return nil, err
	}
	validator, err := payload.New(schemas...)
	if err != nil {
		return nil, err
	}
	return validator.Check, nil
}

// run has the service obey commands and serve its read API. Default ports of the
// services follow those of the gateway.
func (p serviceParts) run(name string, s service) error {
	config := consumer.CommandsConfig{
		Name: name, Wake: p.Send.Relay.Wake, Replies: p.Send.Dispatcher, Window: p.Config.Consumer.InboxWindow, Logger: p.Process.Logger,
	}
	var err error
	if config.Check, err = payloadCheck(p.Config); err != nil {
		return err
	}
	commands, err := consumer.NewCommands(p.Pool, config, s.Handlers()...)
	if err != nil {
		return err
	}
	p.Lifecycle.run(name+"-inbox", commands.RunRetention)
	err = runFeed(p.Lifecycle, p.Config.Role, p.Process, p.Pool, p.Broker, p.Send, commands, consumer.FeedConfig{Name: name, Topics: commands.Topics()})
	if err != nil {
		return err
	}
	fallback := map[string]string{Order: "127.0.0.1:8091", Payment: "127.0.0.1:8092", Inventory: "127.0.0.1:8093"}[p.Config.Role]
	listener, err := listen(context.Background(), p.Process.Logger, name, p.Config.HTTPAddr, fallback)
	if err != nil {
		return err
	}
	p.At.url = "http://" + listener.Addr().String()
	p.Lifecycle.serve(name+" http", gateway.NewServer("", s.HTTP(), p.Process.Logger), listener, nil)
	return nil
}
