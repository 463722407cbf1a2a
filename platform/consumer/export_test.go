package consumer

// Outcome returns what a processor said of the sources of a batch.
func (b *Batch) Outcome() (done map[Source]uint64, failed map[Source]error) { return b.done, b.failed }
