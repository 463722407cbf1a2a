package budget

import "context"

// Beat renews leases and looks for changes once.
func (k *Keeper) Beat(ctx context.Context) error { return k.beat(ctx) }
