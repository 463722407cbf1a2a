package consumer

import (
	"errors"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/countermand/countermand/events"
)

// Statuses of an inbox entry, as the table's check lists them.
const (
	statusReplied  = "replied"
	statusRejected = "rejected"
	statusDeferred = "deferred"
	statusRevoked  = "revoked"
)

// entry is what the inbox knows of a command.
type entry struct {
	status  string
	command []byte // its attributes, to address a reply that comes later; deferred ones only
	answer  []byte // data of the reply, or the rejection
	fresh   bool   // made or changed in this transaction
	stored  bool   // a row exists
}

// inboxKey is the identity of an event for a consumer. CloudEvents makes source
// and id together unique, so both are in it.
func inboxKey(consumer, source, id string) uuid.UUID {
	return events.DeriveUUID(consumer, source, id)
}

// inbox is the part of the table that one batch touches. Keys are arrays and not
// uuid.UUID, which pgx would encode by way of their text.
type inbox map[[16]byte]*entry

// load queues the query for what is stored of those keys, in whichever window. The
// lateral join has each key looked up by the index: a window that was just opened
// has no statistics, and by its size then a scan would seem cheaper.
func (in inbox) load(batch *pgx.Batch, keys [][16]byte) {
	batch.Queue(`
		select i.* from unnest($1::uuid[]) as k (key)
		cross join lateral (select key, status, command, answer from inbox where inbox.key = k.key offset 0) as i`, keys).Query(func(rows pgx.Rows) error {
		var (
			key             [16]byte
			status          string
			command, answer []byte
		)
		_, err := pgx.ForEachRow(rows, []any{&key, &status, &command, &answer}, func() error {
			in[key] = &entry{status: status, command: command, answer: answer, stored: true}
			command, answer = nil, nil // the next row must not reuse their arrays
			return nil
		})
		return err
	})
}

func (in inbox) set(key [16]byte, status string, command, answer []byte) {
	e, ok := in[key]
	if !ok {
		e = &entry{}
		in[key] = e
	}
	e.status, e.command, e.answer, e.fresh = status, command, answer, true
}

// errOvertaken fails a batch that undid a deferred command without having seen
// the effects of its reply.
var errOvertaken = errors.New("a deferred command was replied to while it was undone")

// queueFresh adds the statement that stores new entries. They are inserted without
// "on conflict": were one there already, another process would have handled the
// same command, and this transaction must fail.
func (in inbox) queueFresh(batch *pgx.Batch) {
	c := in.columns(false)
	switch len(c.keys) {
	case 0:
	case 1:
		batch.Queue("insert into inbox (key, status, command, answer) values ($1, $2, $3, $4)",
			c.keys[0], c.statuses[0], c.commands[0], c.answers[0])
	default:
		batch.Queue(`
			insert into inbox (key, status, command, answer)
			select * from unnest($1::uuid[], $2::text[], $3::bytea[], $4::bytea[])`,
			c.keys, c.statuses, c.commands, c.answers)
	}
}

// queueChanged adds the statement that stores changed entries and reports whether
// there are any. What changes is always a deferred command that was undone; when
// its reply was committed since the inbox was loaded, the batch's results hold
// errOvertaken and the transaction must not be committed.
func (in inbox) queueChanged(batch *pgx.Batch) bool {
	c := in.columns(true)
	if len(c.keys) == 0 {
		return false
	}
	batch.Queue(`
		update inbox set status = c.status, answer = c.answer
		from unnest($1::uuid[], $2::text[], $3::bytea[]) as c (key, status, answer)
		where inbox.key = c.key and inbox.status = 'deferred'`,
		c.keys, c.statuses, c.answers,
	).Exec(func(tag pgconn.CommandTag) error {
		if tag.RowsAffected() != int64(len(c.keys)) {
			return errOvertaken
		}
		return nil
	})
	return true
}

// columns are entries by column.
type columns struct {
	keys     [][16]byte
	statuses []string
	commands [][]byte
	answers  [][]byte
}

// columns returns the entries to be written, of those that are stored already or
// of those that are not.
func (in inbox) columns(stored bool) (c columns) {
	for key, e := range in {
		if e.fresh && e.stored == stored {
			c.keys, c.statuses = append(c.keys, key), append(c.statuses, e.status)
			c.commands, c.answers = append(c.commands, e.command), append(c.answers, e.answer)
		}
	}
	return c
}
