package sagatest

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/saga"
)

// clients plans what clients and operators will do: sagas begin, now and then
// twice, are cancelled, paused, resumed and retried, and get signals.
func (w *world) clients() {
	program := w.setup.programs[0]
	for i := range w.weather.sagas {
		id := events.DeriveID(strconv.FormatUint(w.seed, 10), "saga", strconv.Itoa(i))
		w.accepted = append(w.accepted, id)
		request, err := w.made(program.StartContract(), w.setup.requests, id)
		if err != nil {
			w.broken(err)
			return
		}
		m := message{
			key: id, to: toEngines, target: id, publish: id, label: "start", durable: true, started: program.StartType,
			input: saga.Input{Start: &saga.StartInput{ID: id, Request: request, Fingerprint: "f", At: w.now}},
		}
		begin := time.Duration(w.rng.Int64N(int64(time.Second))).Truncate(time.Microsecond)
		w.after(begin, func() { w.publish(m) })
		if w.happens(duplicate) {
			again := m
			again.publish += "'"
			w.after(begin+w.long(), func() { w.publish(again) })
		}
		for _, verb := range []saga.Verb{saga.Cancel, saga.Compensate} {
			if w.happens(cancel) {
				w.after(begin+w.sometime(), func() { w.order(id, verb) })
			}
		}
		for range 2 {
			if w.happens(hold) {
				at := begin + w.sometime()
				w.after(at, func() { w.order(id, saga.Pause) })
				w.after(at+w.sometime(), func() { w.order(id, saga.Resume) })
				w.after(begin+w.sometime(), func() { w.order(id, saga.RetryNow) })
			}
		}
		for _, c := range program.Contracts() {
			if c.Kind != "await" {
				continue
			}
			for n := range 2 { // often one, when it is due, sometimes none or one more
				if wanted := w.rng.IntN(4) > 0; n == 0 && wanted && !w.happens(unasked) || n > 0 && w.happens(unasked) {
					w.after(begin+w.sometime(), func() { w.signal(id, c, w.happens(unasked)) })
				}
			}
		}
	}
}

// sometime is a time from milliseconds to hours, each order of magnitude as likely.
func (w *world) sometime() time.Duration {
	return time.Duration(w.rng.Int64N(int64(time.Millisecond) << w.rng.IntN(24))).Truncate(time.Microsecond)
}

// order has an operator tell a saga something, unless it does not exist.
func (w *world) order(id string, verb saga.Verb) {
	w.database.orders++
	w.publish(message{
		key: id, to: toEngines, target: id, publish: fmt.Sprint("order-", w.database.orders), label: "order " + string(verb), durable: true,
		input: saga.Input{Order: &saga.Order{Verb: verb, By: "operator", Reason: "test"}},
	})
}

// signal sends what a saga awaits, perhaps twice.
func (w *world) signal(id string, c saga.Contracts, twice bool) {
	w.database.orders++
	event := fmt.Sprintf("signal-%d&", w.database.orders)
	data, err := w.made(c.Do, w.setup.signals, id+event)
	if err != nil {
		w.broken(err)
		return
	}
	m := message{
		key: id, to: toEngines, target: id, publish: event, label: "signal " + c.Do.Type,
		input: saga.Input{Signal: &saga.SignalInput{ID: event, Type: c.Do.Type, Data: data}},
	}
	w.publish(m)
	if twice {
		m.publish += "'"
		w.after(w.long(), func() { w.publish(m) })
	}
}

// made returns a request or payload: by the user's function, or made up.
func (w *world) made(d events.Descriptor, by map[string]func(rng *rand.Rand) any, key string) ([]byte, error) {
	rng := random(w.seed, key)
	if own, ok := by[d.Type]; ok {
		return json.Marshal(own(rng))
	}
	return fakeJSON(rng, d.Request)
}
