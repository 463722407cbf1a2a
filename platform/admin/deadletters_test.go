package admin_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/admin"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/deadletter"
)

const order = `"by":"ada","reason":"ticket 1"`

// bury makes n dead letters, of the keys k1, k2 and so on, and one of what is no
// event, which has the highest number.
func (o *office) bury(n int) {
	o.t.Helper()
	var batch pgx.Batch
	for i := range n {
		event, err := hold.New(fmt.Sprintf("e%d", i+1), "/test", rental{Car: "a"}, time.Now())
		if err != nil {
			o.t.Fatal(err)
		}
		event.PartitionKey = fmt.Sprintf("k%d", i+1)
		consumer.QueueDeadLetter(&batch, "office", &broker.Delivery{Topic: hold.Topic(), Offset: uint64(i + 1), Event: event}, 3, io.EOF)
	}
	consumer.QueueDeadLetter(&batch, "office", &broker.Delivery{
		Topic: hold.Topic(), Offset: uint64(n + 1), Event: events.Event{Data: []byte("junk")}, Malformed: io.ErrUnexpectedEOF,
	}, 1, io.ErrUnexpectedEOF)
	if err := o.pool.SendBatch(o.t.Context(), &batch).Close(); err != nil {
		o.t.Fatal(err)
	}
}

func (o *office) letter(id string) deadletter.Letter {
	o.t.Helper()
	return decode[deadletter.Letter](o, o.do(http.MethodGet, "/admin/v1/dead-letters/"+id, ""))
}

// linesOf reads an answer of one JSON document a line.
func linesOf[T any](o *office, a answer) (all []T) {
	o.t.Helper()
	if a.status != http.StatusOK || a.header.Get("Content-Type") != "application/jsonl" {
		o.t.Fatalf("answered %d %s", a.status, a.body)
	}
	for text := range strings.Lines(a.body) {
		var one T
		if err := json.Unmarshal([]byte(text), &one); err != nil {
			o.t.Fatalf("%v in %s", err, text)
		}
		all = append(all, one)
	}
	return all
}

func TestDeadLettersAreListedPageByPage(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.bury(4)
	var seen []string
	path := "/admin/v1/dead-letters?limit=2"
	for path != "" {
		page := decode[admin.DeadLetters](o, o.do(http.MethodGet, path, ""))
		for _, l := range page.DeadLetters {
			seen = append(seen, l.ID)
		}
		path = ""
		if page.Next != "" {
			path = "/admin/v1/dead-letters?limit=2&cursor=" + page.Next
		}
	}
	if got := strings.Join(seen, " "); got != "office.5 office.4 office.3 office.2 office.1" {
		t.Errorf("listed %s", got)
	}
	for query, want := range map[string]int{
		"key=k3": 1, "reason=malformed": 1, "reason=failed": 4, "error=EOF": 5, "consumer=office&topic=" + string(hold.Topic()): 5, "consumer=other": 0,
		"event_type=test.car.hold.v1": 4, "state=dead": 5, "state=parked": 0, "correlation_id=none": 0,
		"died_after=2020-01-01T00:00:00Z": 5, "died_before=2020-01-01T00:00:00Z": 0, "service=office": 5, "cursor=zoo.9": 0, "cursor=a.1": 5,
	} {
		if page := decode[admin.DeadLetters](o, o.do(http.MethodGet, "/admin/v1/dead-letters?"+query, "")); len(page.DeadLetters) != want || page.DeadLetters == nil {
			t.Errorf("%s lists %d, want %d", query, len(page.DeadLetters), want)
		}
	}
	groups := decode[admin.DeadLetterGroups](o, o.do(http.MethodGet, "/admin/v1/dead-letters:groups?consumer=office", ""))
	if len(groups.Groups) != 2 || groups.Groups[0].Count != 4 || groups.Groups[1].Reason != "malformed" {
		t.Errorf("groups %+v", groups)
	}
	for query, code := range map[string]string{
		"state=x": "invalid_state", "limit=0": "invalid_limit", "limit=501": "invalid_limit", "died_after=x": "invalid_died_after",
		"died_before=x": "invalid_died_before", "x=1": "unknown_parameter", "key=a&key=b": "invalid_parameter", "cursor=17": "invalid_cursor",
	} {
		o.problem(o.do(http.MethodGet, "/admin/v1/dead-letters?"+query, ""), http.StatusBadRequest, code)
	}
	o.problem(o.do(http.MethodGet, "/admin/v1/dead-letters:groups?service=zoo", ""), http.StatusNotFound, "service_not_found")
}

func TestADeadLetterIsShownWhateverCame(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.bury(1)
	a := o.do(http.MethodGet, "/admin/v1/dead-letters/office.1", "")
	if l := decode[deadletter.Letter](o, a); a.header.Get("ETag") != `"1"` || !strings.Contains(string(l.Event), `"car":"a"`) || l.Error != "EOF" || l.Attempts != 3 {
		t.Errorf("%s %+v", a.header.Get("ETag"), l)
	}
	if l := o.letter("office.2"); l.Event != nil || string(l.Data) != "junk" || l.Reason != "malformed" {
		t.Errorf("%+v", l)
	}
	for _, id := range []string{"office.9", "zoo.1", "office", "office.x", "office.0"} {
		o.problem(o.do(http.MethodGet, "/admin/v1/dead-letters/"+id, ""), http.StatusNotFound, "dead_letter_not_found")
	}
}

func TestOrdersAboutADeadLetter(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.bury(3)
	post := func(target, body string, headers ...string) answer {
		return o.do(http.MethodPost, "/admin/v1/dead-letters/"+target, body, headers...)
	}
	for _, c := range []struct {
		target, body, header string
		status               int
		code                 string
	}{
		{"office.1:mend", `{` + order + `}`, "", 404, "verb_not_found"},
		{"office.9:redrive", `{` + order + `}`, "", 404, "dead_letter_not_found"},
		{"office.1:redrive", `{"by":"ada"}`, "", 422, "reason_required"},
		{"office.1:redrive", `{`, "", 400, "invalid_body"},
		{"office.1:redrive", `{` + order + `,"x":1}`, "", 400, "invalid_body"},
		{"office.1:redrive?dry_run=x", `{` + order + `}`, "", 400, "invalid_dry_run"},
		{"office.1:redrive?x=1", `{` + order + `}`, "", 400, "unknown_parameter"},
		{"office.1:redrive", `{` + order + `}`, "If-Match: x", 400, "invalid_if_match"},
		{"office.1:redrive", `{` + order + `}`, `If-Match: "7"`, 412, "revision_moved"},
		{"office.1:redrive", `{` + order + `,"data":{}}`, "", 422, "invalid_request"},
		{"office.1:discard", `{` + order + `,"force":true}`, "", 422, "invalid_request"},
		{"office.1:edit", `{` + order + `,"data":{}}`, "", 428, "if_match_required"},
		{"office.1:edit", `{` + order + `}`, "If-Match: *", 422, "invalid_event"},
		{"office.1:edit", `{` + order + `,"data":{},"event":{}}`, "If-Match: *", 422, "invalid_event"},
		{"office.1:edit", `{` + order + `,"event":{"id":"e"}}`, "If-Match: *", 422, "invalid_event"},
		{"office.1:edit", `{` + order + `,"data":{}}`, `If-Match: "7"`, 412, "revision_moved"},
		{"office.4:edit", `{` + order + `,"data":{}}`, "If-Match: *", 422, "invalid_event"},
	} {
		headers := []string{}
		if c.header != "" {
			headers = append(headers, c.header)
		}
		o.problem(post(c.target, c.body, headers...), c.status, c.code)
	}
	if l := o.letter("office.1"); l.State != deadletter.Dead || l.Revision != 1 || len(l.Log) != 0 {
		t.Errorf("what was refused changed it: %+v", l)
	}

	edited := decode[admin.DeadLetterResult](o, post("office.1:edit", `{`+order+`,"data":{"car":"b"}}`, `If-Match: "1"`))
	if l := edited.DeadLetter; l.Revision != 2 || !strings.Contains(string(l.Event), `"car":"b"`) || len(l.Log) != 1 || l.Log[0].By != "ada" || !strings.Contains(string(l.Log[0].Before), `"car":"a"`) {
		t.Errorf("edited %+v", l)
	}
	would := decode[admin.DeadLetterResult](o, post("office.1:redrive?dry_run=true", `{`+order+`}`))
	if l := o.letter("office.1"); !would.DryRun || would.DeadLetter.State != deadletter.Redriving || l.State != deadletter.Dead {
		t.Errorf("a dry run says %+v and leaves %+v", would, l)
	}
	done := post("office.1:redrive", `{`+order+`}`, `If-Match: "2"`)
	if l := decode[admin.DeadLetterResult](o, done).DeadLetter; l.State != deadletter.Redriving || l.Redrives != 1 || done.header.Get("ETag") != `"3"` {
		t.Errorf("%s %+v", done.header.Get("ETag"), l)
	}
	o.problem(post("office.1:redrive", `{`+order+`}`), http.StatusConflict, "already_redriving")
	o.problem(post("office.1:edit", `{`+order+`,"data":{}}`, "If-Match: *"), http.StatusConflict, "already_redriving")
	if _, err := o.pool.Exec(t.Context(), "update dead_letter set redrives = $1 where id = 2", deadletter.RedrivesMax); err != nil {
		t.Fatal(err)
	}
	o.problem(post("office.2:redrive", `{`+order+`}`), http.StatusConflict, "redriven_too_often")
	decode[admin.DeadLetterResult](o, post("office.2:redrive", `{`+order+`,"force":true}`))
	decode[admin.DeadLetterResult](o, post("office.3:discard", `{`+order+`}`))
	gone := o.do(http.MethodGet, "/admin/v1/dead-letters/office.3", "")
	if o.problem(gone, http.StatusNotFound, "dead_letter_not_found"); !strings.Contains(gone.body, "discarded") {
		t.Errorf("of what was discarded it says %s", gone.body)
	}
}

func TestBulkOrdersAboutDeadLetters(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.bury(3)
	post := func(body string) answer {
		return o.do(http.MethodPost, "/admin/v1/dead-letters:bulk", `{`+order+`,`+body+`}`)
	}
	for body, want := range map[string]struct {
		status int
		code   string
	}{
		`"verb":"mend","filter":{}`:                         {422, "invalid_verb"},
		`"verb":"redrive","filter":{"state":"x"}`:           {422, "invalid_state"},
		`"verb":"redrive","filter":{},"rate":1001`:          {422, "invalid_rate"},
		`"verb":"redrive","filter":{},"rate":-1`:            {422, "invalid_rate"},
		`"verb":"redrive","filter":{},"seconds_max":86401`:  {422, "invalid_rate"},
		`"verb":"redrive","filter":{},"service":"zoo"`:      {404, "service_not_found"},
		`"verb":"redrive","filter":{},"expected_count":3`:   {409, "count_differs"},
		`"verb":"redrive","filter":{"x":1}`:                 {400, "invalid_body"},
		`"verb":"discard","filter":{},"expected_count":100`: {409, "count_differs"},
	} {
		o.problem(post(body), want.status, want.code)
	}
	dry := linesOf[admin.DeadLetterLine](o, post(`"verb":"discard","filter":{},"dry_run":true`))
	if len(dry) != 6 || dry[0].Event != "selected" || dry[0].Count.Selected != 4 || dry[1].DeadLetter.ID != "office.1" || dry[5].Event != "finished" || dry[5].Count.Done != 4 {
		t.Errorf("dry run %+v", dry)
	}
	if _, err := o.pool.Exec(t.Context(), "update dead_letter set redrives = $1 where id = 2", deadletter.RedrivesMax); err != nil {
		t.Fatal(err)
	}
	told := linesOf[admin.DeadLetterLine](o, post(`"verb":"redrive","filter":{"reason":"failed"},"expected_count":3,"rate":1000`))
	if len(told) != 5 || told[4].Count.Done != 2 || told[4].Count.Refused != 1 || told[2].DeadLetter.Code != "redriven_too_often" {
		t.Errorf("redriven %+v", told)
	}
	late := linesOf[admin.DeadLetterLine](o, post(`"verb":"discard","filter":{},"expected_count":4,"seconds_max":2e-9`))
	if last := late[len(late)-1]; last.Event != "interrupted" || last.Detail == "" || last.Count.Done != 0 {
		t.Errorf("out of time %+v", late)
	}
	if n := len(decode[admin.DeadLetters](o, o.do(http.MethodGet, "/admin/v1/dead-letters?state=redriving", "")).DeadLetters); n != 2 {
		t.Errorf("%d are redriven, want 2", n)
	}
}

func TestReplayOverHTTP(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	if err := o.broker.Ensure(t.Context(), hold.Topic()); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"e1", "e2", "e3"} {
		event, err := hold.New(id, "/test", rental{Car: "a"}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		event.PartitionKey = "k"
		if receipt := o.broker.PublishBatch(t.Context(), []broker.Message{{Topic: hold.Topic(), Event: event}})[0]; receipt.Err != nil {
			t.Fatal(receipt.Err)
		}
	}
	if _, err := o.pool.Exec(t.Context(), "insert into consumer_topic (consumer, topic, memory) values ('office', $1, 'inbox')", string(hold.Topic())); err != nil {
		t.Fatal(err)
	}
	if known := decode[admin.Consumers](o, o.do(http.MethodGet, "/admin/v1/consumers", "")).Consumers; len(known) != 1 || known[0].Service != "office" || known[0].Memory != consumer.MemoryInbox {
		t.Errorf("consumers %+v", known)
	}
	o.problem(o.do(http.MethodGet, "/admin/v1/consumers?x=1", ""), http.StatusBadRequest, "unknown_parameter")
	post := func(body string) answer {
		return o.do(http.MethodPost, "/admin/v1/consumers:replay", `{`+order+`,"consumer":"office","topic":"`+string(hold.Topic())+`",`+body+`}`)
	}
	const since = `"since":"2026-01-01T00:00:00Z"`
	for body, want := range map[string]struct {
		status int
		code   string
	}{
		`"until":"2026-01-01T00:00:00Z"`:                   {422, "invalid_range"},
		`"positions":{"partition":9,"from":1,"through":2}`: {422, "invalid_range"},
		since + `,"rate":1001`:                             {422, "invalid_rate"},
		since + `,"expected_count":2`:                      {409, "count_differs"},
		since + `,"service":"zoo"`:                         {404, "service_not_found"},
		since + `,"x":1`:                                   {400, "invalid_body"},
		`"since":"yesterday"`:                              {400, "invalid_body"},
	} {
		o.problem(post(body), want.status, want.code)
	}
	nobody := o.do(http.MethodPost, "/admin/v1/consumers:replay", `{`+order+`,"consumer":"nobody","topic":"t",`+since+`}`)
	o.problem(nobody, http.StatusNotFound, "consumer_not_found")
	dry := linesOf[admin.ReplayLine](o, post(since+`,"dry_run":true`))
	if len(dry) != 5 || dry[0].Count.Selected != 3 || dry[1].Message.EventID != "e1" || dry[4].Event != "finished" || dry[4].Count.Done != 3 {
		t.Errorf("dry run %+v", dry)
	}
	one := linesOf[admin.ReplayLine](o, post(since+`,"ids":["e2"],"expected_count":1,"again":true`))
	if len(one) != 3 || one[1].Message.DeadLetter == "" {
		t.Fatalf("replayed %+v", one)
	}
	if l := o.letter(one[1].Message.DeadLetter); l.State != deadletter.Redriving || !l.Replayed || !l.Again || l.EventID != "e2" || l.Log[0].Verb != "replay" || l.Log[0].By != "ada" {
		t.Errorf("it waits as %+v", l)
	}
	late := linesOf[admin.ReplayLine](o, post(since+`,"expected_count":3,"rate":0.1,"seconds_max":5`))
	if last := late[len(late)-1]; last.Event != "interrupted" || last.Count.Done != 1 || last.Detail == "" {
		t.Errorf("out of time %+v", late)
	}
}
