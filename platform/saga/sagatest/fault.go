package sagatest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// fault is a class of what may go wrong.
type fault int

const (
	duplicate          fault = iota // a message is delivered twice
	drop                            // a delivery is lost, and made again later
	lose                            // the broker forgets a message that it had acknowledged
	late                            // a message is overtaken by later ones
	crashBeforeCommit               // of an engine or a participant
	crashAfterCommit                // before it acknowledges what it has handled
	unknownCommit                   // the answer of the database is lost; it has committed, or not
	crashBeforePublish              // of a relay
	crashAfterPublish               // before it marks what it has published
	pause                           // a process stands still between reading and writing
	skew                            // the engines' clocks differ
	reject                          // a participant says no
	refuse                          // a participant says no to a compensation
	deaf                            // a participant does not get its commands
	mute                            // nobody gets a participant's replies
	failing                         // a local step fails and is tried again
	cancel                          // a client or an operator turns the saga round
	hold                            // an operator pauses and resumes it, and retries
	unasked                         // signals come before they are awaited, twice, or never
	faults
)

var faultNames = [faults]string{
	"duplicate", "drop", "lose", "late", "crash-before-commit", "crash-after-commit", "unknown-commit", "crash-before-publish",
	"crash-after-publish", "pause", "skew", "reject", "refuse-undo", "deaf", "mute", "failing", "cancel", "hold", "unasked",
}

// weather is what a run is exposed to: how likely each fault is, and for how long.
type weather struct {
	chance [faults]float64
	// latest is how long a message or a process is late at most.
	latest time.Duration
	// steps is how much happens before all faults end.
	steps int
	sagas int
}

// draw makes the weather of a seed. Half of the fault classes are absent in each,
// because faults that come all at once hide each other's bugs.
func draw(rng *rand.Rand, sagas int) weather {
	var w weather
	for f := range w.chance {
		strength := rng.Float64()
		if rng.IntN(2) == 0 {
			strength = 0
		}
		w.chance[f] = strength * strength * 0.5
	}
	w.latest = time.Millisecond << (6 + rng.IntN(12))
	w.steps = 20 << rng.IntN(5)
	w.sagas = 1 + rng.IntN(max(sagas, 1))
	return w
}

// String lists the faults that are there.
func (w weather) String() string {
	var parts []string
	for f, chance := range w.chance {
		if chance > 0 {
			parts = append(parts, fmt.Sprintf("%s %.2f", faultNames[f], chance))
		}
	}
	slices.Sort(parts)
	return fmt.Sprintf("%d sagas, %d steps of trouble, up to %s late; %s", w.sagas, w.steps, w.latest, or(strings.Join(parts, ", "), "no faults"))
}

func or(text, fallback string) string {
	if text == "" {
		return fallback
	}
	return text
}

// Flaw is something that is built wrong in the simulated world, by which a test
// shows that its exploration would notice.
type Flaw string

// The flaws.
const (
	NoTombstone         Flaw = "no-tombstone"          // an undo that comes first leaves no trace
	NoInbox             Flaw = "no-inbox"              // participants obey every copy of a command
	UndoNotDeduplicated Flaw = "undo-not-deduplicated" // participants undo every time they are told
	AckBeforeCommit     Flaw = "ack-before-commit"
	PublishBeforeCommit Flaw = "publish-before-commit"
	CursorRelay         Flaw = "cursor-relay"      // the relay passes over what commits late
	NoRevisionGuard     Flaw = "no-revision-guard" // the last writer wins
	TimerLost           Flaw = "timer-lost"        // timers live in an engine's memory
	BlindRescue         Flaw = "blind-rescue"      // a restarted engine issues open commands from memory
)

// Flaws returns all flaws.
func Flaws() []Flaw {
	return []Flaw{NoTombstone, NoInbox, UndoNotDeduplicated, AckBeforeCommit, PublishBeforeCommit, CursorRelay, NoRevisionGuard, TimerLost, BlindRescue}
}

// Broken has that flaw built into the simulated world. A test of the exploration
// itself shows by it that it would notice.
func Broken(flaw Flaw) Option { return func(s *setup) { s.flaw = flaw } }
