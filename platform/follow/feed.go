package follow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/filter"
)

// readMax is how many events are taken from the broker at once.
const readMax = 512

// feed is the tip of one topic: its reader, and the events that it brought last.
type feed struct {
	hub   *Hub
	topic events.Topic

	ready   chan struct{} // closed once signer is set or opening says why not
	opening error
	signer  *signer
	ctx     context.Context
	stop    context.CancelFunc

	asking sync.Mutex // held while the broker is asked for what lies before base

	mu       sync.Mutex
	kept     []*entry
	bytes    int      // of kept
	base     position // before the oldest kept
	at       position // after the newest
	text     string   // of at
	groups   map[string]*group
	users    int
	left     time.Time // when the last user did
	reason   error     // why the feed has ended
	finished bool
}

// entry is an event that is kept.
type entry struct {
	event     events.Event
	partition int
	offset    uint64
	text      string // position after it
	groups    []*group

	once    sync.Once
	encoded []byte
}

// json returns the event in the JSON format. Followers ask at once.
func (e *entry) json() []byte {
	e.once.Do(func() { e.encoded = Encode(&e.event) })
	return e.encoded
}

// size is about how much memory an entry takes.
func (e *entry) size() int { return 2*len(e.event.Data) + 1024 }

// group is the followers that want the same events.
type group struct {
	key     string
	filter  *filter.Filter
	queue   []*entry // what is kept of what they want
	dropped uint64   // how many were before it
	members map[*Follower]struct{}
}

func newFeed(h *Hub, topic events.Topic) *feed {
	f := &feed{hub: h, topic: topic, ready: make(chan struct{}), groups: make(map[string]*group)}
	f.ctx, f.stop = context.WithCancel(context.Background())
	return f
}

func (f *feed) enter() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.users++
}

func (f *feed) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.users--; f.users == 0 {
		f.left = time.Now()
	}
}

func (f *feed) idle(linger time.Duration) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.users == 0 && time.Since(f.left) >= linger
}

// end ends the feed and tells its followers; the first reason counts.
func (f *feed) end(reason error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.finished {
		return
	}
	f.finished, f.reason = true, reason
	f.stop()
	for _, g := range f.groups {
		g.wake()
	}
}

// run reads until the feed ends.
func (f *feed) run() {
	defer f.hub.forget(f)
	reader, err := f.open()
	if err != nil {
		f.opening = err
		close(f.ready)
		f.end(err)
		return
	}
	close(f.ready)
	defer reader.Close()
	var checking sync.WaitGroup
	checking.Go(f.watch)
	defer checking.Wait()
	defer f.stop()
	for {
		batch, err := reader.Next(f.ctx, readMax)
		if f.ctx.Err() != nil {
			return
		}
		if err != nil {
			f.hub.config.Logger.Error("topic can no longer be followed", "topic", f.topic, "error", err)
			if errors.Is(err, broker.ErrNotFound) {
				err = fmt.Errorf("%w: %w", ErrGone, err)
			}
			f.end(err)
			return
		}
		if f.add(batch) {
			select {
			case <-time.After(f.hub.config.Rest):
			case <-f.ctx.Done():
				return
			}
		}
	}
}

// open finds the tip of the topic and begins to read there.
func (f *feed) open() (broker.Reader, error) {
	epoch, err := f.hub.source.Epoch(f.ctx, f.topic)
	if err != nil {
		return nil, err
	}
	_, newest, err := f.hub.source.Bounds(f.ctx, f.topic)
	if err != nil {
		return nil, err
	}
	f.signer = newSigner(f.hub.config.Secret, f.topic, epoch)
	f.at = f.hub.position(newest)
	f.base, f.text = slices.Clone(f.at), f.signer.text(f.at)
	return f.hub.source.Read(f.ctx, f.topic, f.at.starts(f.hub.source.Partitions()))
}

// add keeps what was read and wakes those who want some of it.
func (f *feed) add(batch []broker.Delivery) (woken bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	wake := make(map[*group]struct{})
	for i := range batch {
		d := &batch[i]
		f.at.pass(d.Partition, d.Offset)
		if d.Malformed != nil { // no CloudEvent, so nothing that could be sent as one
			continue
		}
		e := &entry{event: d.Event, partition: d.Partition, offset: d.Offset, text: f.signer.text(f.at)}
		in := filter.Input{Event: &e.event}
		for _, g := range f.groups {
			if g.filter.Holds(&in) {
				g.queue = append(g.queue, e)
				e.groups = append(e.groups, g)
				wake[g] = struct{}{}
			}
		}
		f.kept = append(f.kept, e)
		f.bytes += e.size()
	}
	f.text = f.signer.text(f.at)
	f.trim()
	for g := range wake {
		g.wake()
	}
	return len(wake) > 0
}

// trim forgets the oldest events beyond the limits.
func (f *feed) trim() {
	n := 0
	for len(f.kept)-n > f.hub.config.KeptMax || f.bytes > f.hub.config.KeptBytesMax && n < len(f.kept) {
		e := f.kept[n]
		f.base.pass(e.partition, e.offset)
		f.bytes -= e.size()
		for _, g := range e.groups { // it is the oldest of each of them
			g.queue[0] = nil
			g.queue = g.queue[1:]
			g.dropped++
		}
		f.kept[n] = nil
		n++
	}
	f.kept = f.kept[n:]
}

// wake tells the members of a group that there is something for them.
func (g *group) wake() {
	for member := range g.members {
		select {
		case member.wake <- struct{}{}:
		default: // it has been told
		}
	}
}

// join makes a follower a member of its group and returns what is kept after the
// position and wanted; all of it when the position is nil. It reports false
// when the position is before what is kept. The caller holds the lock.
func (f *feed) join(member *Follower, after position) (pending []*entry, ok bool) {
	if after != nil {
		if !after.reaches(f.base) {
			return nil, false
		}
		for _, e := range f.kept {
			if !after.passed(e.partition, e.offset) && member.filter.Matches(&e.event) {
				pending = append(pending, e)
			}
		}
	}
	key := member.filter.String()
	g := f.groups[key]
	if g == nil {
		g = &group{key: key, filter: member.filter, members: make(map[*Follower]struct{})}
		f.groups[key] = g
	}
	g.members[member] = struct{}{}
	member.group, member.filter = g, g.filter
	member.cursor = g.dropped + uint64(len(g.queue))
	return pending, true
}

// part takes a follower out of its group. An empty group keeps nothing.
func (f *feed) part(member *Follower) {
	f.mu.Lock()
	defer f.mu.Unlock()
	g := member.group
	if g == nil {
		return
	}
	member.group = nil
	delete(g.members, member)
	if len(g.members) > 0 {
		return
	}
	delete(f.groups, g.key)
	for _, e := range g.queue {
		e.groups = slices.DeleteFunc(e.groups, func(other *group) bool { return other == g })
	}
}
