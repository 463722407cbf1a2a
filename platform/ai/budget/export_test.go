package budget

import "context"

// Beat renews leases and looks for changes once.
func (k *Keeper) Beat(ctx context.Context) error { return k.beat(ctx) }

// Revision returns which change of budgets is heeded.
func (k *Keeper) Revision() int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.directory.revision
}
