package intake

import (
	"context"
	"time"
)

// Note keeps since when commands wait, as Run does.
func (i *Intake) Note(ctx context.Context) error { return i.note(ctx) }

// Forget removes keys that are that old, as Run does.
func (i *Intake) Forget(ctx context.Context, age time.Duration) error { return i.forget(ctx, age) }
