// Package follow gives events of topics to many followers at once. Those at the tip
// of a topic share one reader, and what it brought last is kept for all of them; one
// that comes with an older position reads by itself until it has caught up. A position
// is an opaque text that every process with the same secret understands. Delivery is at
// least once and in the order of each partition. A follower that is too slow, or whose
// position was deleted, is told so: nothing is left out in silence.
package follow
