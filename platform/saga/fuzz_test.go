package saga_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/saga"
)

// FuzzDecide gives a saga requests, replies, rejections, signals and orders of
// which every byte may be anything. It must come out of each as a saga that can be
// stored, and never be lost.
func FuzzDecide(f *testing.F) {
	await := saga.Await[journey]{Name: "decision", Timeout: time.Hour, For: saga.Signal(decided, func(s *journey, w word1) { s.Mode = w.Text })}
	program, err := through(hop("a"), await, stops(2, hopAt("arrive")), hop("end")).Compile()
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"Days":["x"]}`), []byte(`{"Text":"a"}`), "signal", []byte(`{"Text":"yes"}`), "full", "a")
	f.Add([]byte(`{}`), []byte(`null`), "", []byte(`[1]`), "", "arrive[0]")
	f.Add([]byte(`[]`), []byte(`{"Text":1}`), "\x00", []byte(`"x"`), "\xff", "arrive[99999999999999999999]")
	f.Fuzz(func(t *testing.T, request, reply []byte, signal string, payload []byte, code, step string) {
		if len(reply) > 0 && !json.Valid(reply) || len(payload) > 0 && !json.Valid(payload) {
			return // the engine sets these aside
		}
		var in saga.Instance
		for _, input := range []saga.Input{
			{Start: &saga.StartInput{ID: tripID, Request: request, Fingerprint: code}},
			{Signal: &saga.SignalInput{ID: signal, Type: decided.Type(), Data: payload}},
			{Order: &saga.Order{Verb: saga.Complete, By: "eve", Reason: code, Step: step, Data: payload}},
			{Reply: &saga.ReplyInput{CommandID: saga.DoID(tripID, "a"), Data: reply}},
			{Order: &saga.Order{Verb: saga.Edit, By: "eve", Reason: code, Data: reply}},
			{Reply: &saga.ReplyInput{CommandID: saga.DoID(tripID, step), Data: reply}},
			{Local: &saga.LocalInput{Step: step, State: payload}},
			{Lock: &saga.LockInput{Step: step}},
			{Reply: &saga.ReplyInput{CommandID: saga.DoID(tripID, "arrive[0]"), Rejection: &events.Rejection{Code: events.Code(code), Message: signal}}},
			{Order: &saga.Order{Verb: saga.Skip, By: "eve", Reason: code, Step: step}},
		} {
			before := in
			out, _, verdict := program.Decide(in, input, dawn)
			if verdict == saga.Ignored && out.Status != in.Status {
				t.Fatalf("what is ignored made it %s", out.Status)
			}
			in = out
			if in.Status == "" {
				continue
			}
			if in.Status == saga.Running && in.Due().IsZero() {
				t.Fatalf("it runs, and nothing is due: %+v", in)
			}
			if in.State != nil && !json.Valid(in.State) {
				t.Fatalf("its state is not JSON: %q", in.State)
			}
			if _, err := saga.EncodeEntry(&before, &in, saga.Cause{Kind: "fuzz"}, dawn); err != nil {
				t.Fatalf("it cannot be stored: %v", err)
			}
		}
	})
}
