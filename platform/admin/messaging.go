package admin

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/countermand/countermand/platform/deadletter"
	"github.com/countermand/countermand/platform/outbox/operate"
	"github.com/countermand/countermand/platform/postgres"
)

// Messaging is the dead letters and outboxes that an admin listener shows: those of
// the roles in its process. It is safe for concurrent use; roles add theirs as they
// start.
type Messaging struct {
	mu      sync.Mutex
	letters []*deadletter.Store // by service
	topics  map[*deadletter.Store]deadletter.Topics
	boxes   []*operate.Outbox // by service
}

// AddOutbox adds the outbox of a service.
func (m *Messaging) AddOutbox(box *operate.Outbox) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.boxes = append(slices.Clone(m.boxes), box) // readers may hold the old one
	slices.SortFunc(m.boxes, func(a, b *operate.Outbox) int { return strings.Compare(a.Service(), b.Service()) })
}

// outboxes returns the outbox of one service, or of all.
func (m *Messaging) outboxes(service string) []*operate.Outbox {
	m.mu.Lock()
	defer m.mu.Unlock()
	if service == "" {
		return m.boxes
	}
	at := slices.IndexFunc(m.boxes, func(o *operate.Outbox) bool { return o.Service() == service })
	if at < 0 {
		return nil
	}
	return m.boxes[at : at+1]
}

// AddDeadLetters adds the dead letters of a service, and the broker whose topics its
// consumers read.
func (m *Messaging) AddDeadLetters(store *deadletter.Store, topics deadletter.Topics) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.topics == nil {
		m.topics = make(map[*deadletter.Store]deadletter.Topics)
	}
	m.topics[store] = topics
	m.letters = append(slices.Clone(m.letters), store) // readers may hold the old one
	slices.SortFunc(m.letters, func(a, b *deadletter.Store) int { return strings.Compare(a.Service(), b.Service()) })
}

// topicsOf returns the broker that the consumers of a store's database read from.
func (m *Messaging) topicsOf(store *deadletter.Store) deadletter.Topics {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.topics[store]
}

// stores returns the dead letters of one service, or of all.
func (m *Messaging) stores(service string) []*deadletter.Store {
	m.mu.Lock()
	defer m.mu.Unlock()
	if service == "" {
		return m.letters
	}
	at := slices.IndexFunc(m.letters, func(s *deadletter.Store) bool { return s.Service() == service })
	if at < 0 {
		return nil
	}
	return m.letters[at : at+1]
}

// RegisterMessaging adds the dead letters, the consumers and the outboxes to mux:
//
//	GET  /admin/v1/dead-letters            list, by service, newest first
//	GET  /admin/v1/dead-letters:groups     how many there are of a kind
//	GET  /admin/v1/dead-letters/{id}       one letter with its event and its log
//	POST /admin/v1/dead-letters/{id}:VERB  redrive, discard, edit
//	POST /admin/v1/dead-letters:bulk       redrive or discard all that a filter selects
//	GET  /admin/v1/consumers               the consumers that have run, by service
//	POST /admin/v1/consumers:replay        hand a range of a topic to one of them once more
//	GET  /admin/v1/outboxes                how much waits, by lane
//	GET  /admin/v1/outboxes:stuck          rows that wait too long, and why
//	POST /admin/v1/outboxes:flush          wake the relays and wait until what is there is sent
//	GET  /admin/v1/outbox-rows/{id}        a row that is set aside, with its event and its log
//	POST /admin/v1/outbox-rows/{id}:VERB   requeue, discard
func RegisterMessaging(mux *http.ServeMux, messaging *Messaging, logger *slog.Logger) {
	a := &messagingAPI{api: api{logger: logger}, messaging: messaging}
	handle := func(pattern string, handler http.HandlerFunc) { mux.Handle(pattern, Protect(handler)) }
	handle("GET /admin/v1/dead-letters", a.list)
	handle("GET /admin/v1/dead-letters:groups", a.groups)
	handle("GET /admin/v1/dead-letters/{id}", a.get)
	handle("POST /admin/v1/dead-letters/{target}", a.order)
	handle("POST /admin/v1/dead-letters:bulk", a.bulk)
	handle("GET /admin/v1/consumers", a.consumers)
	handle("POST /admin/v1/consumers:replay", a.replay)
	handle("GET /admin/v1/outboxes", a.outboxes)
	handle("GET /admin/v1/outboxes:stuck", a.stuck)
	handle("POST /admin/v1/outboxes:flush", a.flush)
	handle("GET /admin/v1/outbox-rows/{id}", a.outboxRow)
	handle("POST /admin/v1/outbox-rows/{target}", a.outboxOrder)
}

type messagingAPI struct {
	api
	messaging *Messaging
}

// letterStatuses are those of the codes of orders about dead letters and rows of
// outboxes that are refused.
var letterStatuses = map[string]int{
	"reason_required":       http.StatusUnprocessableEntity,
	"invalid_verb":          http.StatusUnprocessableEntity,
	"invalid_event":         http.StatusUnprocessableEntity,
	"revision_moved":        http.StatusPreconditionFailed,
	"dead_letter_parked":    http.StatusConflict,
	"already_redriving":     http.StatusConflict,
	"redriven_too_often":    http.StatusConflict,
	"count_differs":         http.StatusConflict,
	"too_many_dead_letters": http.StatusConflict,
	"invalid_range":         http.StatusUnprocessableEntity,
	"too_many_ids":          http.StatusUnprocessableEntity,
	"service_required":      http.StatusUnprocessableEntity,
	"consumer_not_found":    http.StatusNotFound,
	"topic_not_found":       http.StatusNotFound,
	"remembers_nothing":     http.StatusConflict,
	"again_impossible":      http.StatusConflict,
	"range_too_large":       http.StatusConflict,
	"too_many_messages":     http.StatusConflict,
	"outbox_row_parked":     http.StatusConflict,
}

// fail answers with the problem that an error is.
func (a *messagingAPI) fail(w http.ResponseWriter, r *http.Request, err error) {
	if refused, ok := errors.AsType[*deadletter.RefusalError](err); ok {
		status, known := letterStatuses[refused.Code]
		if !known {
			status = http.StatusConflict
		}
		refuse(w, r, status, refused.Code, refused.Message)
		return
	}
	if refused, ok := errors.AsType[*operate.RefusalError](err); ok {
		refuse(w, r, letterStatuses[refused.Code], refused.Code, refused.Message)
		return
	}
	switch {
	case errors.Is(err, operate.ErrNotFound):
		refuse(w, r, http.StatusNotFound, "outbox_row_not_found", err.Error())
	case errors.Is(err, deadletter.ErrNotFound):
		refuse(w, r, http.StatusNotFound, "dead_letter_not_found", err.Error())
	case errors.Is(err, postgres.ErrCommitUnknown):
		a.logger.ErrorContext(r.Context(), "admin request failed", "path", r.URL.Path, "error", err)
		refuse(w, r, http.StatusServiceUnavailable, "outcome_unknown", "the database was lost while it was asked: look before giving the order again")
	default:
		if !errors.Is(err, context.Canceled) {
			a.logger.ErrorContext(r.Context(), "admin request failed", "path", r.URL.Path, "error", err)
		}
		refuse(w, r, http.StatusServiceUnavailable, "store_unavailable", "the service's database or broker did not answer; see the log")
	}
}
