package budget

import (
	"context"
	"time"

	"github.com/google/uuid"
)

// Beat renews leases and looks for changes once.
func (k *Keeper) Beat(ctx context.Context) error { return k.beat(ctx) }

// Late sets the clock of the process so much ahead, as when its beat has not come for
// that long.
func (k *Keeper) Late(by time.Duration) {
	k.now = func() time.Time { return time.Now().Add(by) }
}

// Holder returns as whom the process holds leases.
func (k *Keeper) Holder() uuid.UUID {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.holder
}

// Revision returns which change of budgets is heeded.
func (k *Keeper) Revision() int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.directory.revision
}
