package schedule

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"time"
	"unicode/utf8"

	"github.com/countermand/countermand/events"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations returns the tables of the package. They need those of the outbox
// beside them.
func Migrations() fs.FS { return migrations }

// Schedule is what an operator states. Only ID, When and Do are required.
type Schedule struct {
	// ID names the schedule: lower-case letters, digits, dots, dashes and
	// underscores, at most 100.
	ID string `json:"id"`
	// When it fires.
	When Spec `json:"when"`
	// Do is what a firing sends.
	Do Action `json:"do"`
	// Overlap says what a firing does while the saga of the one before has not
	// ended; [Skip] when empty.
	Overlap Overlap `json:"overlap,omitempty"`
	// CatchUp says what becomes of firings that were missed.
	CatchUp CatchUp `json:"catch_up,omitzero"`
	// Limit is how often it fires in all; 0 means without a limit. Skipped and
	// missed firings do not count, nor do those that were triggered or backfilled.
	Limit int64 `json:"limit,omitempty"`
}

// Action is a command to be sent.
type Action struct {
	// Command is the type of the command, such as shop.checkout.request.v1.
	Command string `json:"command"`
	// Data is its request, as JSON.
	Data json.RawMessage `json:"data,omitempty"`
	// TimeField names a field of Data, which must be an object then, that is set to
	// the nominal time of the firing, as RFC 3339. So a saga knows which day it
	// works on, also when it is backfilled.
	TimeField string `json:"time_field,omitempty"`
}

// Overlap is what a firing does while the saga of an earlier one has not ended.
// There is no policy that cancels the earlier saga: to cancel is to compensate,
// and that is an operator's decision.
type Overlap string

// The overlap policies. Only AllowAll fits commands that start no saga, since
// nobody knows when those have ended. A saga that is stuck has not ended.
const (
	Skip      Overlap = "skip"       // the firing is skipped
	BufferOne Overlap = "buffer_one" // one firing waits for the saga to end, further ones are skipped
	AllowAll  Overlap = "allow_all"  // it fires all the same
)

// CatchUp says what becomes of firings that no scheduler acted upon in time.
type CatchUp struct {
	// Policy is [Latest] when empty.
	Policy CatchUpPolicy `json:"policy,omitempty"`
	// Window is how late a firing may be; later ones are missed for good. 24 h when
	// zero, at most a year.
	Window Duration `json:"window,omitempty"`
}

// CatchUpPolicy of a [CatchUp].
type CatchUpPolicy string

// The catch-up policies.
const (
	Latest CatchUpPolicy = "latest" // of those that are due together, the latest fires
	All    CatchUpPolicy = "all"    // all fire, in order, as Overlap allows
	None   CatchUpPolicy = "skip"   // a firing more than a minute late does not happen
)

const (
	windowDefault = Duration(24 * time.Hour)
	windowMax     = Duration(366 * 24 * time.Hour)
	// lateMax is how late a firing may be with the policy None: longer than another
	// process needs to take over.
	lateMax = time.Minute

	dataBytesMax  = 64 << 10
	fieldBytesMax = 100
)

var idPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,99}$`)

// ErrInvalid is wrapped by the error about a schedule that breaks a rule.
var ErrInvalid = errors.New("invalid schedule")

// withDefaults fills in what was left out.
func (s Schedule) withDefaults() Schedule {
	if s.Overlap == "" {
		s.Overlap = Skip
	}
	if s.CatchUp.Policy == "" {
		s.CatchUp.Policy = Latest
	}
	if s.CatchUp.Window == 0 {
		s.CatchUp.Window = windowDefault
	}
	return s
}

// Validate reports everything that is wrong with s, joined and wrapping
// [ErrInvalid]. Which commands there are only a [Scheduler] knows.
func (s Schedule) Validate() error {
	_, err := s.compile()
	return err
}

// compile returns the timetable of a valid schedule.
func (s Schedule) compile() (*timetable, error) {
	s = s.withDefaults()
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !idPattern.MatchString(s.ID) {
		fail("id %q: want lower-case letters, digits, dots, dashes and underscores, at most 100", s.ID)
	}
	t, err := s.When.compile()
	if err != nil {
		errs = append(errs, err)
	}
	if err := events.ValidateType(s.Do.Command); err != nil {
		errs = append(errs, fmt.Errorf("do.command: %w", err))
	}
	if _, err := s.Do.data(time.Time{}); err != nil {
		errs = append(errs, err)
	}
	switch s.Overlap {
	case Skip, BufferOne, AllowAll:
	default:
		fail("overlap %q: want skip, buffer_one or allow_all", s.Overlap)
	}
	switch s.CatchUp.Policy {
	case Latest, All, None:
	default:
		fail("catch_up.policy %q: want latest, all or skip", s.CatchUp.Policy)
	}
	if s.CatchUp.Window < 0 || s.CatchUp.Window > windowMax {
		fail("catch_up.window is %s; want up to %s", s.CatchUp.Window, windowMax)
	}
	if s.Limit < 0 {
		fail("limit is %d; want 0, for none, or more", s.Limit)
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, errors.Join(errs...))
	}
	return t, nil
}

// data returns the request of the firing at a nominal time.
func (a Action) data(at time.Time) ([]byte, error) {
	switch {
	case len(a.Data) > dataBytesMax:
		return nil, fmt.Errorf("do.data has %d bytes; at most %d are allowed", len(a.Data), dataBytesMax)
	case len(a.Data) > 0 && !json.Valid(a.Data) || !utf8.Valid(a.Data):
		return nil, errors.New("do.data is no JSON")
	case len(a.TimeField) > fieldBytesMax:
		return nil, fmt.Errorf("do.time_field is longer than %d bytes", fieldBytesMax)
	case a.TimeField == "":
		return bytes.Clone(a.Data), nil
	}
	fields := make(map[string]json.RawMessage)
	if len(a.Data) > 0 {
		if err := json.Unmarshal(a.Data, &fields); err != nil || fields == nil {
			return nil, errors.New("do.time_field needs do.data to be a JSON object")
		}
	}
	fields[a.TimeField] = json.RawMessage(`"` + at.UTC().Format(time.RFC3339Nano) + `"`)
	return json.Marshal(fields)
}
