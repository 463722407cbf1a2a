package upstream

import (
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"reflect"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/countermand/countermand/platform/ai/simulated"
)

const (
	connectionsIdleMax  = 256 // to one provider
	connectionIdleTime  = 90 * time.Second
	answerHeaderBytes   = 64 << 10
	tlsHandshakeTimeout = 10 * time.Second
)

// Router sends calls to deployments. Make it with [NewRouter]; it is safe for
// concurrent use.
type Router struct {
	observer  Observer
	logger    *slog.Logger
	simulated http.RoundTripper

	changing sync.Mutex
	current  atomic.Pointer[snapshot]
}

// snapshot is a configuration made ready. A call sees one from beginning to end.
type snapshot struct {
	config      Config
	providers   map[string]*provider
	deployments map[string]*deployment
}

// provider is a provider with its connections and keys.
type provider struct {
	Provider
	name      string
	transport http.RoundTripper
	keys      *keyring
}

// deployment is a deployment with what is known of how it does.
type deployment struct {
	Deployment
	name     string
	provider *provider
	breaker  *gobreaker.TwoStepCircuitBreaker[struct{}] // nil: off
	running  atomic.Int64
}

// NewRouter returns a router of a configuration. observer is told of attempts; the zero
// value tells nobody. A nil logger means slog.Default.
func NewRouter(config Config, observer Observer, logger *slog.Logger) *Router {
	if logger == nil {
		logger = slog.Default()
	}
	r := &Router{observer: observer, logger: logger, simulated: simulated.New()}
	r.SetConfig(config)
	return r
}

// SetConfig serves another configuration from now on; calls under way end by the one
// they began with. Connections, rests of keys and breakers of what has not changed
// stay.
func (r *Router) SetConfig(config Config) {
	r.changing.Lock()
	defer r.changing.Unlock()
	before := r.current.Load()
	s := &snapshot{config: config, providers: make(map[string]*provider), deployments: make(map[string]*deployment)}
	for name, p := range config.Providers {
		if before != nil && before.providers[name] != nil && reflect.DeepEqual(before.providers[name].Provider, p) {
			s.providers[name] = before.providers[name]
			continue
		}
		s.providers[name] = &provider{Provider: p, name: name, transport: r.transport(p), keys: newKeyring(p.Keys)}
	}
	for name, d := range config.Deployments {
		p := s.providers[d.Provider]
		if p == nil {
			continue // whoever made the configuration has checked that
		}
		if before != nil {
			if old := before.deployments[name]; old != nil && old.provider == p && reflect.DeepEqual(old.Deployment, d) {
				s.deployments[name] = old
				continue
			}
		}
		s.deployments[name] = &deployment{Deployment: d, name: name, provider: p, breaker: r.newBreaker(name, d.Breaker)}
	}
	r.current.Store(s)
	if before == nil {
		return
	}
	for name, p := range before.providers {
		if s.providers[name] != p {
			p.closeIdle()
		}
	}
}

func (p *provider) closeIdle() {
	if t, ok := p.transport.(*http.Transport); ok {
		t.CloseIdleConnections()
	}
}

// Close closes the connections that nobody uses.
func (r *Router) Close() {
	for _, p := range r.current.Load().providers {
		p.closeIdle()
	}
}

func (r *Router) transport(p Provider) http.RoundTripper {
	if p.Wire == Simulated {
		return r.simulated
	}
	connect := p.Connect
	if connect <= 0 {
		connect = ConnectDefault
	}
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: connect, KeepAlive: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:      true,
		TLSHandshakeTimeout:    min(connect, tlsHandshakeTimeout),
		MaxIdleConnsPerHost:    connectionsIdleMax,
		IdleConnTimeout:        connectionIdleTime,
		MaxResponseHeaderBytes: answerHeaderBytes,
		DisableCompression:     true, // parts of a stream would wait in it
	}
}

func (r *Router) newBreaker(name string, b Breaker) *gobreaker.TwoStepCircuitBreaker[struct{}] {
	if b.Errors <= 0 {
		return nil
	}
	window, pause := b.Window, b.Pause
	if window <= 0 {
		window = breakerWindow
	}
	if pause <= 0 {
		pause = breakerPause
	}
	return gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Name: name, MaxRequests: 1, Interval: window, BucketPeriod: window / 10, Timeout: pause,
		IsExcluded:  func(err error) bool { return errors.Is(err, errUntried) },
		ReadyToTrip: func(counts gobreaker.Counts) bool { return counts.TotalFailures >= uint32(b.Errors) },
		OnStateChange: func(name string, _, to gobreaker.State) {
			r.observer.breaker(name, to != gobreaker.StateClosed)
			if to == gobreaker.StateOpen {
				r.logger.Warn("deployment of an AI model fails and is left alone for a while", slog.String("deployment", name), slog.Duration("pause", pause))
			}
		},
	})
}

// candidates returns deployments in the order in which a call tries them: the targets,
// by chance according to their weight, and then the fallback.
func (s *snapshot) candidates(m Model) []*deployment {
	targets := slices.Clone(m.Targets)
	all := make([]*deployment, 0, len(targets)+len(m.Fallback))
	add := func(name string) {
		if d := s.deployments[name]; d != nil && !slices.Contains(all, d) {
			all = append(all, d)
		}
	}
	for len(targets) > 1 {
		total := 0
		for _, t := range targets {
			total += max(t.Weight, 0)
		}
		if total == 0 {
			break
		}
		at := rand.IntN(total) //nolint:gosec // it spreads load, and guards nothing
		i := 0
		for ; i < len(targets)-1; i++ {
			if at -= max(targets[i].Weight, 0); at < 0 {
				break
			}
		}
		add(targets[i].Deployment)
		targets = slices.Delete(targets, i, i+1)
	}
	for _, t := range targets {
		if t.Weight > 0 || len(m.Targets) == 1 { // one of weight 0 takes no calls
			add(t.Deployment)
		}
	}
	for _, name := range m.Fallback {
		add(name)
	}
	return all
}

// ModelInfo tells of a model to clients.
type ModelInfo struct {
	Name    string
	OwnedBy string // the provider of its first target
}

// Models returns what a tenant may use, sorted by name. Names that stand for many are
// left out, but those of the simulated provider are told by its models.
func (r *Router) Models(tenant string) []ModelInfo {
	s := r.current.Load()
	var all []ModelInfo
	for _, name := range slices.Sorted(maps.Keys(s.config.Models)) {
		m := s.config.Models[name]
		if !m.allows(tenant) || len(m.Targets) == 0 || s.deployments[m.Targets[0].Deployment] == nil {
			continue
		}
		d := s.deployments[m.Targets[0].Deployment]
		if name[len(name)-1] != '*' {
			all = append(all, ModelInfo{name, d.provider.name})
			continue
		}
		if d.provider.Wire == Simulated && d.Model == "*" {
			for _, known := range simulated.Models() {
				if _, pattern, ok := s.config.find(known); ok && pattern == name {
					all = append(all, ModelInfo{known, d.provider.name})
				}
			}
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	return all
}

func (m *Model) allows(tenant string) bool {
	return len(m.Tenants) == 0 || slices.Contains(m.Tenants, tenant)
}
