package webhook

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

const (
	secretPrefix    = "whsec_"
	secretBytes     = 32
	secretsLive     = 2
	secretOverlap   = 24 * time.Hour
	secretOverlapIn = 30 * 24 * time.Hour // the longest that may be asked for
)

// Secret signs requests. A subscription has one, or two while one replaces the other.
type Secret struct {
	ID string `json:"id"`
	// Secret is whsec_ and 32 random bytes in base64. Shown once, when it is made.
	Secret  string    `json:"secret,omitempty"`
	Created time.Time `json:"created"`
	// Expires is when the secret ceases to sign; absent for the current one.
	Expires *time.Time `json:"expires,omitempty"`
}

func newSecret(now time.Time) Secret {
	return Secret{
		ID:      strings.ToLower(fmt.Sprintf("key_%x", randomBytes(6))),
		Secret:  secretPrefix + base64.StdEncoding.EncodeToString(randomBytes(secretBytes)),
		Created: now.UTC(),
	}
}

// rotate returns the secrets with a fresh one in front. The one that was current signs
// for as long as overlap says; any other is gone.
func rotate(secrets []Secret, now time.Time, overlap time.Duration) []Secret {
	fresh := []Secret{newSecret(now)}
	if len(secrets) > 0 && overlap > 0 {
		before := secrets[0]
		expires := now.Add(overlap).UTC()
		before.Expires = &expires
		fresh = append(fresh, before)
	}
	return fresh[:min(len(fresh), secretsLive)]
}

// shownSecrets returns the secrets that live, without what is secret.
func shownSecrets(secrets []Secret, now time.Time) []Secret {
	var shown []Secret
	for _, s := range secrets {
		if s.Expires == nil || s.Expires.After(now) {
			s.Secret = ""
			shown = append(shown, s)
		}
	}
	return shown
}

// signature returns the value of the header webhook-signature: one for each secret that
// lives, the current one first.
func signature(secrets []Secret, id string, at time.Time, body []byte) (string, error) {
	var signatures []string
	for _, s := range secrets {
		if s.Expires != nil && !s.Expires.After(at) {
			continue
		}
		hook, err := standardwebhooks.NewWebhook(s.Secret)
		if err != nil {
			return "", fmt.Errorf("secret %s: %w", s.ID, err)
		}
		signed, err := hook.Sign(id, at, body)
		if err != nil {
			return "", fmt.Errorf("secret %s: %w", s.ID, err)
		}
		signatures = append(signatures, signed)
	}
	return strings.Join(signatures, " "), nil
}

// sign sets the headers of Standard Webhooks.
func sign(h http.Header, secrets []Secret, id string, at time.Time, body []byte) error {
	signed, err := signature(secrets, id, at, body)
	if err != nil {
		return err
	}
	h.Set("webhook-id", id)
	h.Set("webhook-timestamp", strconv.FormatInt(at.Unix(), 10))
	h.Set("webhook-signature", signed)
	return nil
}

// sealSecrets and openSecrets are the secrets as the database holds them.
func (v *Vault) sealSecrets(owner string, secrets []Secret) ([]byte, error) {
	text, err := json.Marshal(secrets) //nolint:gosec // it is sealed on the next lines
	if err != nil {
		return nil, fmt.Errorf("secrets of %s: %w", owner, err)
	}
	return v.seal(owner, text), nil
}

func (v *Vault) openSecrets(owner string, sealed []byte) (secrets []Secret, err error) {
	text, err := v.open(owner, sealed)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &secrets); err != nil {
		return nil, fmt.Errorf("secrets of %s: %w", owner, err)
	}
	return secrets, nil
}
