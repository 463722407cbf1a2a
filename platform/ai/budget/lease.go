package budget

import (
	"slices"
	"time"

	"github.com/google/uuid"
)

// leaseKey names a lease.
type leaseKey struct {
	holder uuid.UUID
	budget string
	starts int64 // the period, in microseconds since 1970
}

// lease is what a holder may hand out of a budget in one period. Its fields are
// guarded by the keeper's mutex.
type lease struct {
	key    leaseKey
	budget *Budget
	starts time.Time
	// until is when the period ends, by this process's clock and rather too early.
	until time.Time
	free  int64
	// open is how many parts of reservations and attempts refer to it.
	open int
	used time.Time // when something was taken last
}

// want is what a call needs of a budget.
type want struct {
	budget *Budget
	amount int64
}

// live reports whether calls may still be let through on the lease.
func (l *lease) live(k *Keeper, now time.Time) bool {
	return l.key.holder == k.holder && now.Before(l.until) && now.Before(k.until)
}

// giveBack returns what was held. The mutex is held.
func (k *Keeper) giveBack(parts []part) {
	for _, p := range parts {
		p.lease.free += p.held
		p.lease.open--
	}
}

// takeFree takes from the leases in memory what they have, and tells what lacks. The
// mutex is held.
func (k *Keeper) takeFree(wants []want, now time.Time) (parts []part, lacking []want) {
	for _, w := range wants {
		l := k.current[w.budget.ID]
		if l == nil || l.free < w.amount || !l.live(k, now) {
			lacking = append(lacking, w)
			continue
		}
		l.free -= w.amount
		l.open++
		l.used = now
		parts = append(parts, part{l, w.amount})
	}
	return parts, lacking
}

// granted adds what the database has leased, and hands out what it was asked for.
// The mutex is held.
func (k *Keeper) granted(holder uuid.UUID, b *Budget, starts, until time.Time, amount, need int64, now time.Time) part {
	key := leaseKey{holder, b.ID, starts.UnixMicro()}
	l := k.leases[key]
	if l == nil {
		l = &lease{key: key, budget: b, starts: starts, until: until}
		k.leases[key] = l
	}
	if holder == k.holder {
		k.current[b.ID] = l
	}
	l.free += amount - need
	l.open++
	l.used = now
	return part{l, need}
}

// returned is what goes back to a budget.
type returned struct {
	key    leaseKey
	amount int64
}

// idle takes out of memory what no call has needed for a while and what belongs to
// periods that have ended. The mutex is held.
func (k *Keeper) idle(now time.Time, everything bool) (back []returned) {
	for key, l := range k.leases {
		over := !l.live(k, now)
		if l.free > 0 && (over || everything || now.Sub(l.used) > k.config.IdleAfter) {
			back = append(back, returned{key, l.free})
			l.free = 0
		}
		if over && l.open == 0 && l.free <= 0 {
			delete(k.leases, key)
			if k.current[key.budget] == l {
				delete(k.current, key.budget)
			}
		}
	}
	slices.SortFunc(back, func(a, b returned) int { return a.key.compare(b.key) })
	return back
}
