package webhook

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// lanes is how many parts the subscriptions are divided in among the senders.
const lanes = 64

func laneOf(id uuid.UUID) int { return int(id[15]) % lanes }

// row is a subscription as it is stored.
type row struct {
	id             uuid.UUID
	tenant, client string
	revision       int64
	state          State
	reason         string
	stated         stated
	sinkBefore     string // as it was loaded
	credential     *Credential
	secrets        []Secret
	unopened       error // why credential and secrets are not there, although they are stored
	createdAt      time.Time
	updatedAt      time.Time
	since          time.Time
	grantedAt      *time.Time
	grantedBy      string
	allowedRate    *int
	askAt          *time.Time
	asked          int
	failures       int
	restUntil      *time.Time
}

// stated is the document of a subscription: what its subscriber states, without what is
// secret.
type stated struct {
	Source           string            `json:"source,omitempty"`
	Types            []string          `json:"types,omitempty"`
	Config           map[string]string `json:"config,omitempty"`
	Filters          json.RawMessage   `json:"filters,omitempty"`
	Sink             string            `json:"sink"`
	ProtocolSettings *Settings         `json:"protocolsettings,omitempty"`
}

const rowColumns = `id, tenant, client, revision, state, reason, document, credential, secrets, created_at, updated_at, since,
	granted_at, granted_by, allowed_rate, ask_at, asked, failures, rest_until`

// scan reads the columns of a subscription, and those that follow them into more. What is
// secret may stay sealed, see row.unopened: whoever has lost a key must still be able to
// list what there is, and to delete it.
func (s *Store) scan(from pgx.CollectableRow, more ...any) (*row, error) {
	var (
		r                   row
		document            []byte
		credential, secrets []byte
	)
	err := from.Scan(append([]any{
		&r.id, &r.tenant, &r.client, &r.revision, &r.state, &r.reason, &document, &credential, &secrets,
		&r.createdAt, &r.updatedAt, &r.since, &r.grantedAt, &r.grantedBy, &r.allowedRate, &r.askAt, &r.asked, &r.failures, &r.restUntil,
	}, more...)...)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(document, &r.stated); err != nil {
		return nil, fmt.Errorf("subscription %s: %w", r.id, err)
	}
	r.sinkBefore = r.stated.Sink
	if r.state != deleted { // which has none any more
		r.unopened = s.open(&r, credential, secrets)
	}
	return &r, nil
}

// open opens what is secret of a row.
func (s *Store) open(r *row, credential, secrets []byte) (err error) {
	owner := r.id.String()
	if r.secrets, err = s.config.Vault.openSecrets(owner, secrets); err != nil || credential == nil {
		return err
	}
	text, err := s.config.Vault.open(owner, credential)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &r.credential); err != nil {
		return fmt.Errorf("credential of subscription %s: %w", owner, err)
	}
	return nil
}

func (s *Store) scanOne(from pgx.CollectableRow) (*row, error) { return s.scan(from) }

// sealed returns what of the row goes encrypted into the database.
func (s *Store) sealed(r *row) (document, credential, secrets []byte, err error) {
	if document, err = json.Marshal(r.stated); err != nil {
		return nil, nil, nil, fmt.Errorf("subscription %s: %w", r.id, err)
	}
	owner := r.id.String()
	if r.credential != nil {
		text, err := json.Marshal(r.credential) //nolint:gosec // it is sealed on the next lines
		if err != nil {
			return nil, nil, nil, fmt.Errorf("credential of subscription %s: %w", r.id, err)
		}
		credential = s.config.Vault.seal(owner, text)
	}
	secrets, err = s.config.Vault.sealSecrets(owner, r.secrets)
	return document, credential, secrets, err
}

// subscription returns the row as subscribers see it. Secrets are left out.
func (r *row) subscription(now time.Time) Subscription {
	s := Subscription{
		ID: r.id.String(), Source: r.stated.Source, Types: r.stated.Types, Config: r.stated.Config, Filters: r.stated.Filters,
		Sink: r.stated.Sink, SinkCredential: r.credential.shown(), Protocol: protocolHTTP, ProtocolSettings: r.stated.ProtocolSettings,
		State: r.state, StateReason: r.reason, Tenant: r.tenant, Client: r.client, Created: r.createdAt.UTC(), Updated: r.updatedAt.UTC(),
		Signing: shownSecrets(r.secrets, now), Revision: r.revision,
	}
	if r.unopened != nil {
		s.StateReason = clip("nothing is sent: "+r.unopened.Error(), reasonBytesMax)
	}
	if r.allowedRate != nil {
		s.AllowedRate = *r.allowedRate
	}
	if r.restUntil != nil && r.restUntil.After(now) {
		until := r.restUntil.UTC()
		s.RestUntil = &until
	}
	return s
}

// full returns the subscription with its credential, for [Subscription.compile].
func (r *row) full() *Subscription {
	s := r.subscription(time.Time{})
	s.SinkCredential = r.credential
	return &s
}
