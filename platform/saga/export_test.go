package saga

// WholeEntry returns the history entry that stands for all before it.
func WholeEntry(in Instance) []byte {
	entry, err := encodeEntry(&Instance{}, &in, Cause{Kind: "test"}, in.UpdatedAt)
	if err != nil {
		panic(err)
	}
	return entry
}
