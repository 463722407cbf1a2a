package price

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// matcher says which names of models an entry is for. One of its fields is set. Names
// and what they are compared with are in lower case.
type matcher struct {
	Equals     string    `json:"equals"`
	StartsWith string    `json:"starts_with"`
	EndsWith   string    `json:"ends_with"`
	Contains   string    `json:"contains"`
	Regex      string    `json:"regex"`
	Or         []matcher `json:"or"`
	And        []matcher `json:"and"`
	Not        *matcher  `json:"not"`

	regex *regexp.Regexp
}

// prepare brings m into the form that matches uses.
func (m *matcher) prepare() (err error) {
	for _, text := range []*string{&m.Equals, &m.StartsWith, &m.EndsWith, &m.Contains} {
		*text = strings.ToLower(*text)
	}
	switch {
	case m.Regex != "":
		if m.regex, err = regexp.Compile(m.Regex); err != nil {
			return fmt.Errorf("match: %w", err)
		}
	case m.Not != nil:
		return m.Not.prepare()
	case m.Equals+m.StartsWith+m.EndsWith+m.Contains == "" && len(m.Or)+len(m.And) == 0:
		return errors.New("match: it is empty")
	}
	for _, list := range [][]matcher{m.Or, m.And} {
		for i := range list {
			if err := list[i].prepare(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *matcher) matches(name string) bool {
	switch {
	case m.Equals != "":
		return name == m.Equals
	case m.StartsWith != "":
		return strings.HasPrefix(name, m.StartsWith)
	case m.EndsWith != "":
		return strings.HasSuffix(name, m.EndsWith)
	case m.Contains != "":
		return strings.Contains(name, m.Contains)
	case m.regex != nil:
		return m.regex.MatchString(name)
	case m.Not != nil:
		return !m.Not.matches(name)
	}
	for i := range m.Or {
		if m.Or[i].matches(name) {
			return true
		}
	}
	for i := range m.And {
		if !m.And[i].matches(name) {
			return false
		}
	}
	return len(m.And) > 0
}
