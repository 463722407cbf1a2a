package webhook

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/egress"
	"github.com/countermand/countermand/platform/filter"
)

// State is where a subscription stands.
type State string

// The states.
const (
	// Pending waits for the sink to agree. Events are not kept for it.
	Pending State = "pending"
	// Active delivers.
	Active State = "active"
	// Paused keeps events, and sends none until it is resumed.
	Paused State = "paused"
	// Disabled keeps nothing: the sink has withdrawn, or never agreed.
	Disabled State = "disabled"
	deleted  State = "deleted"
)

// Limits of one subscription.
const (
	sinkBytesMax    = 2048
	typesMax        = 100
	headersMax      = 16
	headerBytesMax  = 1024
	credentialMax   = 8 << 10
	concurrencyMax  = 16
	rateMax         = 60_000
	concurrencyBase = 4
)

// protocolHTTP is the only protocol.
const protocolHTTP = "HTTP"

// Subscription is an object of the CloudEvents Subscriptions API, with the members
// that this API adds after Created.
type Subscription struct {
	ID     string `json:"id"`
	Source string `json:"source,omitempty"`
	// Types of events that are wanted; empty: all that are offered.
	Types            []string          `json:"types,omitempty"`
	Config           map[string]string `json:"config,omitempty"`
	Filters          json.RawMessage   `json:"filters,omitempty"`
	Sink             string            `json:"sink"`
	SinkCredential   *Credential       `json:"sinkcredential,omitempty"`
	Protocol         string            `json:"protocol"`
	ProtocolSettings *Settings         `json:"protocolsettings,omitempty"`

	State       State     `json:"state,omitempty"`
	StateReason string    `json:"statereason,omitempty"`
	Tenant      string    `json:"tenant,omitempty"` // shown to operators
	Client      string    `json:"client,omitempty"` // who has made it
	Created     time.Time `json:"created,omitzero"`
	Updated     time.Time `json:"updated,omitzero"`
	// Signing tells which secrets sign. A secret itself is there only in the answer
	// that makes it.
	Signing []Secret `json:"signing,omitempty"`
	// AllowedRate is how many requests a minute the sink has allowed; 0: any number.
	AllowedRate int `json:"allowedrate,omitzero"`
	// RestUntil is set while nothing is sent because the sink fails.
	RestUntil *time.Time `json:"restuntil,omitempty"`

	// Revision changes with everything but what the sender notes. It is the ETag.
	Revision int64 `json:"-"`
}

// Settings are the protocolsettings of HTTP.
type Settings struct {
	Headers map[string]string `json:"headers,omitempty"`
	Method  string            `json:"method,omitempty"`
	// ContentMode is how the event stands in the request: binary, which is the
	// default, or structured.
	ContentMode string `json:"contentmode,omitempty"`
}

// Credential is what a sink asks for. What is secret in it is never shown.
type Credential struct {
	Type            string     `json:"credentialtype"` // ACCESSTOKEN or PLAIN
	AccessToken     string     `json:"accesstoken,omitempty"`
	AccessTokenType string     `json:"accesstokentype,omitempty"`
	ExpiresUTC      *time.Time `json:"accesstokenexpiresutc,omitempty"`
	Identifier      string     `json:"identifier,omitempty"`
	Secret          string     `json:"secret,omitempty"`
}

// Types of credentials.
const (
	accessToken = "ACCESSTOKEN"
	plainSecret = "PLAIN"
)

// shown returns the credential without what is secret.
func (c *Credential) shown() *Credential {
	if c == nil {
		return nil
	}
	return &Credential{Type: c.Type, AccessTokenType: c.AccessTokenType, ExpiresUTC: c.ExpiresUTC, Identifier: c.Identifier}
}

// bare reports a credential as it is shown, without its secret.
func (c *Credential) bare() bool { return c != nil && c.AccessToken == "" && c.Secret == "" }

// header returns the Authorization header that presents the credential.
func (c *Credential) header() string {
	if c == nil {
		return ""
	}
	request := http.Request{Header: make(http.Header)}
	if c.Type == plainSecret {
		request.SetBasicAuth(c.Identifier, c.Secret)
		return request.Header.Get("Authorization")
	}
	return "Bearer " + c.AccessToken
}

// Keys of config.
const (
	configOrder       = "order"       // none or key
	configConcurrency = "concurrency" // requests at once
	configRate        = "rate"        // requests a minute to ask the sink for
)

// orderKey is the order in which events of one key wait for each other.
const orderKey = "key"

// plan is a subscription made ready: what matching and sending need of it.
type plan struct {
	filter      *filter.Filter
	sink        *url.URL
	ordered     bool
	concurrency int
	rate        int
	structured  bool
	headers     map[string]string
}

// Violation is one thing wrong with a subscription.
type Violation struct {
	Pointer string // JSON Pointer
	Detail  string
}

// InvalidError is returned for a subscription that cannot be served, with everything
// that is wrong with it.
type InvalidError []Violation

// Error joins the violations.
func (e InvalidError) Error() string {
	parts := make([]string, len(e))
	for i, v := range e {
		parts[i] = strings.TrimPrefix(v.Pointer+" "+v.Detail, " ")
	}
	return strings.Join(parts, "; ")
}

// checker collects what is wrong.
type checker struct{ violations InvalidError }

func (c *checker) fail(pointer, format string, args ...any) {
	c.violations = append(c.violations, Violation{pointer, fmt.Sprintf(format, args...)})
}

// compile makes a subscription ready, or tells everything that is wrong with it.
// offered are the types that there are. Without a guard any sink will do, and without
// offered any type.
func (s *Subscription) compile(guard *egress.Guard, offered map[string]bool) (*plan, error) {
	c := &checker{}
	p := &plan{concurrency: concurrencyBase}
	if s.Protocol != protocolHTTP {
		c.fail("/protocol", "want HTTP, the only protocol")
	}
	p.sink = c.sink(guard, s.Sink)
	p.filter = c.filter(s, offered)
	c.config(s.Config, p)
	c.settings(s.ProtocolSettings, p)
	c.credential(s.SinkCredential)
	if len(c.violations) > 0 {
		return nil, c.violations
	}
	return p, nil
}

func (c *checker) sink(guard *egress.Guard, text string) *url.URL {
	if len(text) > sinkBytesMax {
		c.fail("/sink", "has %d bytes, at most %d are allowed", len(text), sinkBytesMax)
		return nil
	}
	u, err := url.Parse(text)
	if err != nil || text == "" {
		c.fail("/sink", "want an absolute URL such as https://example.com/webhook")
		return nil
	}
	if guard != nil {
		if err := guard.CheckURL(u); err != nil {
			c.fail("/sink", "%v", err)
		}
	}
	return u
}

func (c *checker) filter(s *Subscription, offered map[string]bool) *filter.Filter {
	if len(s.Types) > typesMax {
		c.fail("/types", "has %d types, at most %d are allowed", len(s.Types), typesMax)
	}
	for i, name := range s.Types {
		if offered != nil && !offered[name] {
			c.fail("/types/"+strconv.Itoa(i), "no such event is offered; want some of %s", strings.Join(slices.Sorted(maps.Keys(offered)), ", "))
		}
	}
	all := []*filter.Filter{filter.Types(s.Types...)}
	if s.Source != "" {
		if len(s.Source) > events.AttributeBytesMax {
			c.fail("/source", "has %d bytes, at most %d are allowed", len(s.Source), events.AttributeBytesMax)
		}
		f, err := filter.Compile([]any{map[string]any{"exact": map[string]any{"source": s.Source}}})
		if err != nil {
			c.fail("/source", "%v", err)
		}
		all = append(all, f)
	}
	if len(s.Filters) > 0 && string(s.Filters) != "null" {
		f, err := filter.Parse(s.Filters)
		if faults, ok := err.(filter.CompileError); ok { //nolint:errorlint // it is documented to be of that type
			for _, fault := range faults {
				c.fail("/filters"+fault.Pointer, "%s", fault.Detail)
			}
		}
		all = append(all, f)
	}
	return filter.All(all...)
}

func (c *checker) config(config map[string]string, p *plan) {
	for _, name := range slices.Sorted(maps.Keys(config)) {
		value := config[name]
		switch name {
		case configOrder:
			if p.ordered = value == orderKey; !p.ordered && value != "none" {
				c.fail("/config/order", "want none or key")
			}
		case configConcurrency:
			p.concurrency = c.number("/config/concurrency", value, concurrencyMax)
		case configRate:
			p.rate = c.number("/config/rate", value, rateMax)
		default:
			c.fail("/config/"+name, "there is no such setting, only concurrency, order and rate")
		}
	}
}

func (c *checker) number(pointer, text string, most int) int {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > most {
		c.fail(pointer, "want a number from 1 to %d, as a text", most)
	}
	return n
}

func (c *checker) settings(s *Settings, p *plan) {
	if s == nil {
		return
	}
	if s.Method != "" && s.Method != http.MethodPost {
		c.fail("/protocolsettings/method", "want POST")
	}
	switch s.ContentMode {
	case "", "binary":
	case "structured":
		p.structured = true
	default:
		c.fail("/protocolsettings/contentmode", "want binary or structured")
	}
	if len(s.Headers) > headersMax {
		c.fail("/protocolsettings/headers", "has %d headers, at most %d are allowed", len(s.Headers), headersMax)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Headers)) {
		pointer, value := "/protocolsettings/headers/"+name, s.Headers[name]
		switch {
		case !httpguts.ValidHeaderFieldName(name) || len(name) > 64:
			c.fail(pointer, "is no name of a header")
		case ownHeader(name):
			c.fail(pointer, "is set by the sender or by the protocol; credentials belong in sinkcredential")
		case !httpguts.ValidHeaderFieldValue(value) || len(value) > headerBytesMax:
			c.fail(pointer, "want a text of at most %d bytes without control characters", headerBytesMax)
		}
	}
	p.headers = s.Headers
}

// ownHeader reports a header that a subscriber may not set: it would change what the
// request is, whom it is from, or how it is framed.
func ownHeader(name string) bool {
	name = strings.ToLower(name)
	for _, prefix := range []string{"ce-", "webhook-", "content-", "proxy-", "sec-", "x-forwarded", "forwarded", "access-control-"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return slices.Contains([]string{
		"accept-encoding", "authorization", "connection", "cookie", "date", "expect", "host", "keep-alive", "origin", "te",
		"trailer", "transfer-encoding", "upgrade", "user-agent", "via", "x-real-ip",
	}, name)
}

func (c *checker) credential(s *Credential) {
	if s == nil {
		return
	}
	const at = "/sinkcredential"
	switch {
	case len(s.AccessToken)+len(s.Secret)+len(s.Identifier) > credentialMax:
		c.fail(at, "has more than %d bytes", credentialMax)
	case s.Type == accessToken:
		switch {
		case s.AccessToken == "" || !httpguts.ValidHeaderFieldValue(s.AccessToken):
			c.fail(at+"/accesstoken", "want a token without control characters")
		case s.AccessTokenType != "" && !strings.EqualFold(s.AccessTokenType, "bearer"):
			c.fail(at+"/accesstokentype", "want bearer")
		}
	case s.Type == plainSecret:
		if s.Identifier == "" || s.Secret == "" || strings.Contains(s.Identifier, ":") {
			c.fail(at, "want an identifier without a colon, and a secret")
		}
	default:
		c.fail(at+"/credentialtype", "want ACCESSTOKEN or PLAIN")
	}
}
