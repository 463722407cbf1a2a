package follow

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

// position is how far somebody is in a topic: the offset of the last event that was
// passed, for each partition, or one for all where offsets are of one sequence.
type position []uint64

// index returns the place of a partition in a position.
func (p position) index(partition int) int {
	if len(p) == 1 {
		return 0
	}
	return partition
}

// pass moves the position past an event.
func (p position) pass(partition int, offset uint64) {
	if i := p.index(partition); i < len(p) {
		p[i] = max(p[i], offset)
	}
}

// passed reports whether the position is at or beyond an event.
func (p position) passed(partition int, offset uint64) bool {
	i := p.index(partition)
	return i < len(p) && offset <= p[i]
}

// reaches reports whether the position is nowhere before another.
func (p position) reaches(other position) bool {
	for i := range p {
		if p[i] < other[i] {
			return false
		}
	}
	return true
}

// lift moves the position to another where that is further.
func (p position) lift(other position) {
	for i := range p {
		p[i] = max(p[i], other[i])
	}
}

// starts returns where to begin reading all partitions.
func (p position) starts(partitions int) map[int]broker.Start {
	from := make(map[int]broker.Start, partitions)
	for partition := range partitions {
		from[partition] = broker.Start{After: p[p.index(partition)]}
	}
	return from
}

// positionOf makes a position of where reading would begin.
func positionOf(from map[int]broker.Start, width int) position {
	p := make(position, width)
	for i := range p {
		p[i] = from[i].After
	}
	return p
}

const (
	positionVersion = 1
	epochBytes      = 6
	macBytes        = 10
	// positionTextMax bounds what is decoded of a client's text.
	positionTextMax = 4096
)

// signer writes positions of one topic as texts and reads them.
type signer struct {
	key   []byte
	epoch [epochBytes]byte
}

// newSigner returns the signer for a topic in one incarnation of its storage.
func newSigner(secret []byte, topic events.Topic, epoch string) *signer {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("position of " + string(topic)))
	s := &signer{key: mac.Sum(nil)}
	sum := sha256.Sum256([]byte(epoch))
	copy(s.epoch[:], sum[:])
	return s
}

// text writes a position: a version, the epoch, the smallest offset, and by how much
// each is beyond it.
func (s *signer) text(p position) string {
	raw := make([]byte, 0, 1+epochBytes+binary.MaxVarintLen64*(len(p)+2)+macBytes)
	raw = append(raw, positionVersion)
	raw = append(raw, s.epoch[:]...)
	raw = binary.AppendUvarint(raw, uint64(len(p)))
	least := slices.Min(p)
	raw = binary.AppendUvarint(raw, least)
	for _, offset := range p {
		raw = binary.AppendUvarint(raw, offset-least)
	}
	return base64.RawURLEncoding.EncodeToString(append(raw, s.mac(raw)...))
}

func (s *signer) mac(raw []byte) []byte {
	mac := hmac.New(sha256.New, s.key)
	mac.Write(raw)
	return mac.Sum(nil)[:macBytes]
}

// read reads a text. It fails with ErrPosition when no signer of this topic has
// written it, and with ErrGone when it is of another incarnation of the topic.
func (s *signer) read(text string, width int) (position, error) {
	if len(text) > positionTextMax || strings.ContainsAny(text, "\r\n") { // which the decoder would pass over
		return nil, ErrPosition
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) < 1+epochBytes+macBytes {
		return nil, ErrPosition
	}
	body := raw[:len(raw)-macBytes]
	if raw[0] != positionVersion || !hmac.Equal(s.mac(body), raw[len(body):]) {
		return nil, ErrPosition
	}
	if [epochBytes]byte(body[1:]) != s.epoch {
		return nil, ErrGone
	}
	// What follows was signed by this project, so it can be read.
	body = body[1+epochBytes:]
	next := func() uint64 {
		value, n := binary.Uvarint(body)
		body = body[max(n, 0):]
		return value
	}
	if next() != uint64(width) {
		return nil, ErrGone // the topic had another number of partitions
	}
	p, least := make(position, width), next()
	for i := range p {
		p[i] = least + next()
	}
	return p, nil
}
