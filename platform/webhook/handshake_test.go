package webhook_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/platform/webhook"
)

func TestASinkIsAskedAndGetsNothingBeforeItAgrees(t *testing.T) {
	t.Parallel()
	r := setup(t)
	asked := make(chan http.Header, 100)
	agree := make(chan struct{})
	sink := receive(t, nil)
	sink.options = func(w http.ResponseWriter, q *http.Request) {
		asked <- q.Header.Clone()
		select {
		case <-agree:
			w.Header().Set("WebHook-Allowed-Origin", "HOOKS.example.com")
			w.Header().Set("WebHook-Allowed-Rate", "*")
		default:
			w.WriteHeader(http.StatusOK) // which is no consent
		}
	}
	r.send()
	s := r.subscribe(sink.URL, func(s *webhook.Subscription) {
		s.Config = map[string]string{"rate": "120"}
		s.SinkCredential = &webhook.Credential{Type: "PLAIN", Identifier: "shop", Secret: "hush"}
	})
	h := <-asked
	if h.Get("WebHook-Request-Origin") != "hooks.example.com" || h.Get("WebHook-Request-Rate") != "120" ||
		h.Get("WebHook-Request-Callback") != "" || !strings.HasPrefix(h.Get("Authorization"), "Basic ") {
		t.Errorf("validation request %v", h)
	}
	until(t, "the reason is told", func() bool { return strings.Contains(r.get(s.ID).StateReason, "without WebHook-Allowed-Origin") })
	r.match(fact(t, "early", "k"))
	if all := r.deliveries(s.ID, ""); len(all) != 0 {
		t.Errorf("%d deliveries before the sink agreed", len(all))
	}
	close(agree)
	if s = r.untilState(s.ID, webhook.Active); s.AllowedRate != 0 || s.StateReason != "" {
		t.Errorf("subscription %+v", s)
	}
	r.match(fact(t, "e-1", "k"))
	r.untilEnded(s.ID, 1, webhook.DeliveryDelivered)
	if got := sink.got(); len(got) != 1 || got[0].header.Get("Ce-Id") != "e-1" {
		t.Errorf("the sink got %v", got)
	}
}

func TestAnswersThatAreNoConsent(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		origin, rate string
		status       int
		want         string
	}{
		"another origin":     {"other.example.com", "*", 200, "other.example.com"},
		"a part of ours":     {"example.com", "*", 200, "example.com"},
		"not supported":      {"", "", 405, "405"},
		"a rate of nothing":  {"*", "0", 200, "WebHook-Allowed-Rate"},
		"a rate that is not": {"*", "many", 200, "WebHook-Allowed-Rate"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := setup(t, func(c *webhook.Config) { c.AskFor = 50 * time.Millisecond })
			sink := receive(t, nil)
			sink.options = func(w http.ResponseWriter, _ *http.Request) {
				if c.origin != "" {
					w.Header().Set("WebHook-Allowed-Origin", c.origin)
					w.Header().Set("WebHook-Allowed-Rate", c.rate)
				}
				w.WriteHeader(c.status)
			}
			r.send()
			s := r.subscribe(sink.URL)
			s = r.untilState(s.ID, webhook.Disabled)
			if !strings.Contains(s.StateReason, c.want) {
				t.Errorf("reason %q, want it to tell of %q", s.StateReason, c.want)
			}
		})
	}
}

func TestASinkMayAgreeByCallback(t *testing.T) {
	t.Parallel()
	r := setup(t, func(c *webhook.Config) { c.PublicURL, c.Origin = "https://gw.example.com/", "" })
	callback := make(chan string, 100)
	sink := receive(t, nil)
	sink.options = func(_ http.ResponseWriter, q *http.Request) {
		if q.Header.Get("WebHook-Request-Origin") != "gw.example.com" {
			t.Errorf("origin %q", q.Header.Get("WebHook-Request-Origin"))
		}
		callback <- q.Header.Get("WebHook-Request-Callback")
	}
	r.send()
	s := r.subscribe(sink.URL)
	token, ok := strings.CutPrefix(<-callback, "https://gw.example.com"+webhook.CallbackPath)
	if !ok || len(token) < 40 {
		t.Fatalf("token %q", token)
	}
	if err := r.store.Grant(t.Context(), token+"x", 60); !errors.Is(err, webhook.ErrNotFound) {
		t.Errorf("a wrong token: %v", err)
	}
	// The sink may be asked again meanwhile, which makes another token.
	until(t, "the grant is taken", func() bool {
		select {
		case url := <-callback:
			token = strings.TrimPrefix(url, "https://gw.example.com"+webhook.CallbackPath)
		default:
		}
		return r.store.Grant(t.Context(), token, 60) == nil
	})
	if s = r.get(s.ID); s.State != webhook.Active || s.AllowedRate != 60 {
		t.Errorf("subscription %+v", s)
	}
	if err := r.store.Grant(t.Context(), token, 0); !errors.Is(err, webhook.ErrNotFound) {
		t.Errorf("a used token: %v", err)
	}
}

func TestASinkCannotAgreeForAnother(t *testing.T) {
	t.Parallel()
	r := setup(t, func(c *webhook.Config) { c.PublicURL = "https://gw.example.com" })
	callback, release := make(chan string, 1), make(chan struct{})
	first, second := receive(t, nil), receive(t, nil)
	first.options = func(_ http.ResponseWriter, q *http.Request) {
		callback <- q.Header.Get("WebHook-Request-Callback")
		<-release // so that the second is not asked, and told another token, before
	}
	second.options = func(http.ResponseWriter, *http.Request) {}
	r.send()
	t.Cleanup(func() { close(release) })
	s := r.subscribe(first.URL)
	token := strings.TrimPrefix(<-callback, "https://gw.example.com"+webhook.CallbackPath)
	s.Sink = second.URL
	if _, err := r.store.Replace(t.Context(), everyone, s, webhook.AnyRevision); err != nil {
		t.Fatal(err)
	}
	if err := r.store.Grant(t.Context(), token, 0); !errors.Is(err, webhook.ErrNotFound) {
		t.Errorf("grant by the sink before: %v", err)
	}
	if s = r.get(s.ID); s.State != webhook.Pending {
		t.Errorf("the second sink has not agreed, and the subscription is %s", s.State)
	}
}

func TestAnyRateThatIsAllowedIsTaken(t *testing.T) {
	t.Parallel()
	r := setup(t)
	sink := receive(t, nil)
	sink.options = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WebHook-Allowed-Origin", "*")
		w.Header().Set("WebHook-Allowed-Rate", "99999999999999999999")
	}
	r.send()
	s := r.subscribe(sink.URL)
	r.untilState(s.ID, webhook.Active)
	r.match(fact(t, "e-1", "k"), fact(t, "e-2", "k"))
	r.untilEnded(s.ID, 2, webhook.DeliveryDelivered)
}

func TestASinkThatAgreedIsAskedAgainAndMayWithdraw(t *testing.T) {
	t.Parallel()
	r := setup(t, func(c *webhook.Config) { c.AskAgain = 30 * time.Millisecond })
	sink := receive(t, nil)
	n := 0
	sink.options = func(w http.ResponseWriter, _ *http.Request) {
		switch n++; {
		case n <= 2:
			w.Header().Set("WebHook-Allowed-Origin", "*")
		case n == 3:
			w.WriteHeader(http.StatusBadGateway) // away, which is no withdrawal
		}
	}
	r.send()
	s := r.subscribe(sink.URL)
	s = r.untilState(s.ID, webhook.Disabled)
	if n != 4 || !strings.Contains(s.StateReason, "withdrawn") {
		t.Errorf("asked %d times; reason %q", n, s.StateReason)
	}
	sink.mu.Lock()
	sink.options = nil // it agrees
	sink.mu.Unlock()
	if _, err := r.store.Resume(t.Context(), everyone, s.ID); err != nil {
		t.Fatal(err)
	}
	r.untilState(s.ID, webhook.Active)
}

func TestAnotherSinkIsAskedBeforeItGetsAnything(t *testing.T) {
	t.Parallel()
	r := setup(t)
	first, second := receive(t, nil), receive(t, nil)
	second.options = func(http.ResponseWriter, *http.Request) {}
	r.send()
	s := r.subscribe(first.URL, func(s *webhook.Subscription) {
		s.SinkCredential = &webhook.Credential{Type: "ACCESSTOKEN", AccessToken: "t0ken"}
	})
	s = r.untilState(s.ID, webhook.Active)
	moved := s
	moved.Sink = second.URL
	var invalid webhook.InvalidError
	if _, err := r.store.Replace(t.Context(), everyone, moved, s.Revision); !errors.As(err, &invalid) {
		t.Fatalf("the credential went to another sink unseen: %v", err)
	}
	moved.SinkCredential = &webhook.Credential{Type: "ACCESSTOKEN", AccessToken: "other"}
	if _, err := r.store.Replace(t.Context(), everyone, moved, s.Revision); err != nil {
		t.Fatal(err)
	}
	if got := r.get(s.ID).State; got != webhook.Pending {
		t.Errorf("state %s", got)
	}
	if _, err := r.store.Approve(t.Context(), everyone, s.ID); err != nil {
		t.Fatal(err)
	}
	r.match(fact(t, "e-1", "k"))
	if got := second.untilGot(t, 1)[0]; got.header.Get("Authorization") != "Bearer other" {
		t.Errorf("authorization %q", got.header.Get("Authorization"))
	}
}
