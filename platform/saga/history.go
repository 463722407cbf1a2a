package saga

import "crypto/sha256"

// Cause is why a saga changed.
type Cause struct {
	// Kind is start, reply, signal, timer, local, lock, recall, order or takeover.
	Kind string `json:"kind"`
	// Event is the id of the event that was taken in, if any.
	Event string `json:"event,omitempty"`
	// Order is what an operator or a client wanted.
	Order *Order `json:"order,omitempty"`
}

// The history of a saga is the saga: each transition appends one entry, which
// holds what it changed, and reading them all gives the instance. Nothing else is
// stored of it. An entry is
//
//	format, time, cause, then fields of the instance: tag, length, value
//
// in the order of the tags below, with times in microseconds relative to that of
// the entry, and with texts packed (see [appendPacked]) unless the format is
// plainFormat. Each entry is hashed together with the hash of the one before; the
// row of the saga holds the last hash, so no entry can be changed, left out or
// added without a trace.
const (
	plainFormat = iota + 1
	packedFormat
)

// Tags of the fields. A value of no bytes is the zero value.
const (
	tagID = iota + 1
	tagName
	tagVersion
	tagStatus
	tagFlags
	tagState
	tagFailure
	tagTrouble
	tagResult
	tagStartType
	tagFingerprint
	tagParent
	tagReplyTo
	tagRecalled
	tagCreatedAt
	tagUpdatedAt
	tagDeadline
	tagTraceParent
	tagTraceState
	tagSignals
	tagStep
	tagTenant
)

// Tags of the fields of a step.
const (
	tagStepName = iota + 1
	tagStepKind
	tagStepStatus
	tagStepRounds
	tagStepDone
	tagStepCode
	tagStepChoice
	tagStepItem
	tagStepTurn
	tagStepOrigin
	tagDo
	tagUndo
)

// Tags of the fields of a call.
const (
	tagRequest = iota + 1
	tagReply
	tagAttempts
	tagSentAt
	tagRetryAt
	tagCallDeadline
	tagError
)

// Flags of an instance.
const (
	flagBackward = 1 << iota
	flagPivoted
	flagPaused
)

func (in *Instance) flags() (flags int) {
	if in.Backward {
		flags |= flagBackward
	}
	if in.Pivoted {
		flags |= flagPivoted
	}
	if in.Paused {
		flags |= flagPaused
	}
	return flags
}

// words are written as their place in this list, which must keep its order.
var words = []string{
	string(Running), string(Compensating), string(Completed), string(Compensated), string(Stuck), string(Abandoned),
	string(StepDone), string(StepRejected), string(StepTimedOut), string(StepCancelled),
}

func word(value []byte) string {
	if len(value) == 1 && int(value[0]) < len(words) {
		return words[value[0]]
	}
	return string(value)
}

// chain returns the hash of an entry after the one that has that hash.
func chain(previous []byte, entry []byte) []byte {
	h := sha256.New()
	h.Write(previous)
	h.Write(entry)
	return h.Sum(nil)
}
