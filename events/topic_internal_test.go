package events

import (
	"regexp"
	"testing"
)

// The rule for topics as it is written down.
var topicRule = regexp.MustCompile(`^[a-z][a-z0-9]*(\.[a-z][a-z0-9_-]*){0,6}$`)

func FuzzTopic(f *testing.F) {
	for _, seed := range []string{
		"", "a", "a.b", "shop.inventory.commands", "a.b.c.d.e.f.g", "a.b.c.d.e.f.g.h", "a..b", ".a", "a.", "A", "a.B", "1a", "a1", "a.1", "a.b1",
		"a_b", "a.b_c", "a.b-c", "a.-b", "a.b.", "a b", "a.b\n", "é", "a.é", "a-",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, topic string) {
		if got, want := validTopic(topic), topicRule.MatchString(topic); got != want {
			t.Errorf("validTopic(%q) = %v, want %v", topic, got, want)
		}
	})
}

func BenchmarkTopicValidate(b *testing.B) {
	for b.Loop() {
		if err := Topic("shop.inventory.commands").Validate(); err != nil {
			b.Fatal(err)
		}
	}
}
