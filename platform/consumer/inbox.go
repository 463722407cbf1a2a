package consumer

import (
	"context"
	"errors"
	"fmt"

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
	return uuid.MustParse(events.DeriveID(consumer, source, id))
}

// inbox is the part of the table that one batch touches.
type inbox map[uuid.UUID]*entry

func loadInbox(ctx context.Context, tx pgx.Tx, keys []uuid.UUID) (inbox, error) {
	rows, err := tx.Query(ctx, "select key, status, command, answer from inbox where key = any($1)", keys)
	if err != nil {
		return nil, fmt.Errorf("load inbox: %w", err)
	}
	found := make(inbox, len(keys))
	var (
		key             uuid.UUID
		status          string
		command, answer []byte
	)
	_, err = pgx.ForEachRow(rows, []any{&key, &status, &command, &answer}, func() error {
		found[key] = &entry{status: status, command: command, answer: answer, stored: true}
		command, answer = nil, nil // the next row must not reuse their arrays
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("load inbox: %w", err)
	}
	return found, nil
}

func (in inbox) set(key uuid.UUID, status string, command, answer []byte) {
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

// queue adds the statements that store what changed. New entries are inserted
// without "on conflict": were one there already, another process would have
// handled the same command, and this transaction must fail. What changes is
// always a deferred command that was undone; when its reply was committed since
// the inbox was loaded, this transaction must fail as well.
func (in inbox) queue(batch *pgx.Batch) {
	type columns struct {
		keys     []uuid.UUID
		statuses []string
		commands [][]byte
		answers  [][]byte
	}
	var fresh, changed columns
	for key, e := range in {
		if !e.fresh {
			continue
		}
		c := &fresh
		if e.stored {
			c = &changed
		}
		c.keys, c.statuses = append(c.keys, key), append(c.statuses, e.status)
		c.commands, c.answers = append(c.commands, e.command), append(c.answers, e.answer)
	}
	if len(fresh.keys) > 0 {
		batch.Queue(`
			insert into inbox (key, status, command, answer)
			select * from unnest($1::uuid[], $2::text[], $3::bytea[], $4::bytea[])`,
			fresh.keys, fresh.statuses, fresh.commands, fresh.answers)
	}
	if len(changed.keys) > 0 {
		batch.Queue(`
			update inbox set status = c.status, answer = c.answer
			from unnest($1::uuid[], $2::text[], $3::bytea[]) as c (key, status, answer)
			where inbox.key = c.key and inbox.status = 'deferred'`,
			changed.keys, changed.statuses, changed.answers,
		).Exec(func(tag pgconn.CommandTag) error {
			if tag.RowsAffected() != int64(len(changed.keys)) {
				return errOvertaken
			}
			return nil
		})
	}
}
