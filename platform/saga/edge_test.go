package saga_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/saga"
)

func TestEngineRefusesACommandThatCameTooLate(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	all := ids(3)
	late, early, broken := startOf(t, all[0]), startOf(t, all[1]), startOf(t, all[2])
	late.Event.SetExtension(events.ExpiryExtension, time.Now().Add(-time.Second).UTC().Format(time.RFC3339Nano))
	early.Event.SetExtension(events.ExpiryExtension, time.Now().Add(time.Hour).UTC().Format(time.RFC3339Nano))
	broken.Event.SetExtension(events.ExpiryExtension, "tomorrow")
	b.process(late, early)
	b.want(all[0], saga.Compensated, 1)
	b.wantSent(all[0], "trip.compensated")
	b.want(all[1], saga.Running, 1)
	b.wantSent(all[1], "alpha.do")
	in, _, err := saga.NewReader(b.pool).Get(t.Context(), all[0])
	if err != nil || in.Failure == nil || in.Failure.Code != "expired" || len(in.Failure.Message) == 0 {
		t.Errorf("the late one is %+v, %v", in.Failure, err)
	}
	b.process(late) // and stays refused
	b.want(all[0], saga.Compensated, 1)
	b.process(broken)
	if _, _, err := saga.NewReader(b.pool).Get(t.Context(), all[2]); err == nil {
		t.Error("a command whose expiry cannot be read began a saga")
	}
}

func TestReaderChanged(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	reader := saga.NewReader(b.pool)
	all := ids(3)
	b.process(startOf(t, all[0]), startOf(t, all[1]))
	b.process(ok(t, all[1], "alpha"))
	changed, err := reader.Changed(t.Context(), []saga.Seen{{ID: all[0]}, {ID: all[1], Revision: 2}, {ID: all[2]}, {ID: "no id"}})
	if err != nil || len(changed) != 1 || changed[0].ID != all[0] || changed[0].Revision != 1 || changed[0].Status != saga.Running {
		t.Fatalf("changed %+v, %v", changed, err)
	}
	whole, _, err := reader.Get(t.Context(), all[0])
	if err != nil || len(whole.Steps) != len(changed[0].Steps) {
		t.Errorf("steps %+v, and alone %+v, %v", changed[0].Steps, whole.Steps, err)
	}
	changed, err = reader.Changed(t.Context(), []saga.Seen{{ID: all[0]}, {ID: all[1], Revision: 1}})
	if err != nil || len(changed) != 2 {
		t.Errorf("changed %+v, %v", changed, err)
	}
	if changed, err = reader.Changed(t.Context(), nil); err != nil || len(changed) != 0 {
		t.Errorf("nothing was asked for: %+v, %v", changed, err)
	}
}

func TestReaderListsTheSagasOfATenant(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	reader := saga.NewReader(b.pool)
	all := ids(3)
	ours, theirs, nobodys := startOf(t, all[0]), startOf(t, all[1]), startOf(t, all[2])
	ours.Event.SetExtension(events.TenantExtension, "ours")
	theirs.Event.SetExtension(events.TenantExtension, "theirs")
	b.process(ours, theirs, nobodys, ok(t, all[0], "alpha"))
	for tenant, want := range map[string][]string{"ours": all[:1], "theirs": all[1:2], "nobody": nil} {
		page, err := reader.List(t.Context(), saga.Filter{Tenant: tenant})
		if got := idsOf(page); err != nil || !slices.Equal(got, want) {
			t.Errorf("of %s: %s, %v", tenant, strings.Join(got, " "), err)
		}
	}
	page, err := reader.List(t.Context(), saga.Filter{Unowned: true})
	if got := idsOf(page); err != nil || !slices.Equal(got, all[2:]) {
		t.Errorf("of nobody: %s, %v", strings.Join(got, " "), err)
	}
	for _, test := range []struct {
		definitions []string
		want        int
	}{{nil, 3}, {[]string{"trip", "other"}, 3}, {[]string{}, 0}, {[]string{"other"}, 0}} {
		page, err := reader.List(t.Context(), saga.Filter{Definitions: test.definitions})
		if err != nil || len(page.Sagas) != test.want {
			t.Errorf("definitions %q: %d sagas, %v", test.definitions, len(page.Sagas), err)
		}
	}
}

// What a saga causes is its tenant's, also after it was read from its history.
func TestATenantOwnsWhatItsSagaCauses(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	all := ids(2)
	ours, nobodys := startOf(t, all[0]), startOf(t, all[1])
	ours.Event.SetExtension(events.TenantExtension, "ours")
	b.process(ours, nobodys)
	b.engine = b.another() // which knows nothing but what is stored
	b.process(no(t, all[0], "alpha"), no(t, all[1], "alpha"))
	if in, _ := b.stored(all[0]); in.Tenant != "ours" {
		t.Errorf("tenant %q", in.Tenant)
	}
	if past, err := saga.NewReader(b.pool).At(t.Context(), all[0], 1); err != nil || past.Tenant != "ours" {
		t.Errorf("its first entry says %q, %v", past.Tenant, err)
	}
	messages := 0
	for _, m := range b.outbox() {
		messages++
		want := ""
		if m.Event.CorrelationID == all[0] {
			want = "ours"
		}
		if got := m.Event.Extension(events.TenantExtension); got != want {
			t.Errorf("%s of %s is of tenant %q, want %q", m.Event.Type, m.Event.CorrelationID, got, want)
		}
	}
	if messages < 4 {
		t.Errorf("%d messages", messages)
	}
}
