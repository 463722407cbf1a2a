package gateway_test

import (
	"strings"
	"testing"

	"github.com/countermand/countermand/platform/gateway"
)

func TestStreamsNeedASource(t *testing.T) {
	t.Parallel()
	b := setup(t)
	known := contracts(t)
	known.Facts = facts()
	table, err := gateway.ParseTable("routes.yaml", []byte(streamRoutes), known, lookupIn(nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.gateway.SetTable(table); err == nil || !strings.Contains(err.Error(), "route all: this gateway was given no source of events") {
		t.Errorf("error = %v", err)
	}
}

func TestStreamRoutesThatAreWrong(t *testing.T) {
	t.Parallel()
	known := contracts(t)
	known.Facts = facts()
	const (
		types = "types: [shop.order.placed.v1]"
		keyed = "  - {id: keyed, kind: events, match: POST /v1/facts, auth: key, " + types + "}\n"
	)
	for fields, want := range map[string]string{
		"types: []":       "types: want a list of 1 to 64 facts",
		"types: [shop.x]": `types: "shop.x" is unknown, want one of shop.order.confirmed.v1`,
		"types: [shop.order.placed.v1, shop.order.placed.v1]":   "comes twice",
		"types: [shop.order.placed.v1, shop.review.decided.v1]": "give each topic a route of its own",
		types + ", filters: {exact: {id: a}}":                   "filters: want a list",
		types + ", filters: [{exact: {Id: a}}]":                 "filters: 0: exact: Id: want the name of an attribute",
		types + ", filters: [{any: [{sql: 'id ='}]}]":           "filters: 0: any: 0: sql: column 5",
		types + ", filters: [{exact: {subject: '{other}'}}]":    "filters: 0: exact: subject: the path has no parameter {other}",
		types + ", filters: [{sql: \"subject = '{id}'\"}]":      "filters: 0: sql: a parameter of the path cannot stand in sql",
		types + ", transports: [sse, carrier]":                  `transports: "carrier" is none of sse, poll, websocket`,
		types + ", transports: []":                              "transports: want a list of some of",
		types + ", heartbeat: 10ms":                             "heartbeat: want at least 1s",
		types + ", origins: ['https://*.example']":              "origins: want a scheme and a host",
		types + ", origins: [shop.example]":                     "origins: want a scheme and a host",
		types + ", limits: {followers: 0}":                      "limits: followers: want at least 1",
		types + ", limits: {per_user: 1}":                       `unknown field "per_user"`,
		types + ", publish: nowhere":                            "publish: there is no route nowhere of kind events",
		types + ", publish: a":                                  "publish: there is no route a of kind events",
		types + ", publish: nowhere, transports: [sse]":         "publish: events come in by websocket",
		types + ", publish: keyed":                              "publish: route keyed does not take every credential",
		types + ", match: 'POST /v1/orders/{id}'":               "match: streams are opened by GET",
		types + ", topic: shop.order.events":                    `unknown field "topic"`,
		types + ", guards: [{allow: 'event.id == \"1\"'}]":      "allow: ",
	} {
		match := "match: 'GET /v1/orders/{id}', "
		if strings.Contains(fields, "match:") {
			match = ""
		}
		_, err := gateway.ParseTable("routes.yaml", []byte("version: 1\nroutes:\n  - {id: a, kind: stream, "+match+fields+"}\n"+keyed), known, lookupIn(nil))
		if err == nil || !strings.Contains(err.Error(), "routes.yaml:3: route a: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", fields, err)
		}
	}
}
