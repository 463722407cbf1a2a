package asyncapi_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/events/asyncapi"
)

type parcel struct {
	To string `json:"to"`
}

type other struct {
	To int `json:"to"`
}

var (
	send = events.NewCommand[parcel, events.None]("test.parcel.send.v1", "no_address")
	sent = events.NewFact[parcel]("test.parcel.sent.v1")
)

func system(applications ...asyncapi.Application) asyncapi.System {
	return asyncapi.System{Title: "Parcels", Version: "1", TopicPrefix: "blue.", Partitions: 2, Applications: applications}
}

func post() asyncapi.Application {
	return asyncapi.Application{Name: "post", Handles: []events.Descriptor{send.Describe()}, Sends: []events.Descriptor{sent.Describe()}}
}

func TestDocument(t *testing.T) {
	for _, on := range []asyncapi.Broker{asyncapi.NATS, asyncapi.Kafka} {
		content, err := system(post()).Document(on)
		if err != nil {
			t.Fatal(err)
		}
		var document map[string]any
		if err := json.Unmarshal(content, &document); err != nil {
			t.Fatal(err)
		}
		want := map[string]any{
			"asyncapi":                              "3.0.0",
			"channels/test.parcel.commands/address": "test.parcel.commands.{partition}",
			"operations/post.receive.test.parcel.send.v1/action":                    "receive",
			"operations/post.receive.test.parcel.send.v1/reply/channel/$ref":        "#/channels/saga.replies",
			"operations/post.receive.test.parcel.send.v1/reply/address/location":    "$message.header#/ce-replyto",
			"operations/post.send.test.parcel.sent.v1/action":                       "send",
			"components/messages/test.parcel.send.v1/payload/$ref":                  "#/components/schemas/test.parcel.send.v1",
			"components/messages/test.parcel.send.v1.reply/payload":                 nil,
			"components/schemas/test.parcel.send.v1/properties/to/type":             "string",
			"components/schemas/cloudevent/properties/ce-datacontenttype/const":     "application/json",
			"components/messages/test.parcel.send.v1.reply/correlationId/location":  "$message.header#/ce-correlationid",
			"components/messages/test.parcel.send.v1/bindings/kafka/key/type":       nil,
			"channels/test.parcel.commands/parameters/partition/enum/1":             "1",
			"components/schemas/test.parcel.send.v1.rejected/properties/code/enum/": "no_address,revoked",
		}
		if on == asyncapi.Kafka {
			want["channels/test.parcel.commands/address"] = "blue.test.parcel.commands"
			want["operations/post.receive.test.parcel.send.v1/reply/address/location"] = "$message.header#/ce_replyto"
			want["components/messages/test.parcel.send.v1.reply/correlationId/location"] = "$message.header#/ce_correlationid"
			want["components/messages/test.parcel.send.v1/bindings/kafka/key/type"] = "string"
			want["components/schemas/cloudevent/properties/ce-datacontenttype/const"] = nil
			want["components/schemas/cloudevent/properties/content-type/const"] = "application/json"
			want["channels/test.parcel.commands/parameters/partition/enum/1"] = nil
		}
		for path, value := range want {
			if got := at(document, path); got != value {
				t.Errorf("%s: %s is %v, want %v", on, path, got, value)
			}
		}
	}
}

// at returns the value at a path; a last element that is empty joins a list.
func at(value any, path string) any {
	for name := range strings.SplitSeq(path, "/") {
		switch inner := value.(type) {
		case map[string]any:
			value = inner[name]
		case []any:
			if name == "" {
				var all []string
				for _, one := range inner {
					all = append(all, one.(string))
				}
				return strings.Join(all, ",")
			}
			value = inner[name[0]-'0']
		default:
			return nil
		}
	}
	return value
}

func TestWhatNoDocumentCanTellIsAnError(t *testing.T) {
	clash := events.NewFact[other]("test.parcel.sent.v1").Describe()
	for what, test := range map[string]struct {
		system asyncapi.System
		on     asyncapi.Broker
	}{
		`broker "smoke"`:       {system(post()), "smoke"},
		"different payloads":   {system(post(), asyncapi.Application{Name: "reader", Receives: []events.Descriptor{clash}}), asyncapi.NATS},
		"at least one partiti": {asyncapi.System{}, asyncapi.NATS},
	} {
		if _, err := test.system.Document(test.on); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: error = %v", what, err)
		}
	}
}
