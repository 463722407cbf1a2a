package events_test

import (
	"errors"
	"fmt"
	"time"

	"github.com/countermand/countermand/events"
)

type ReserveSeatRequest struct {
	Show string `json:"show"`
	Seat int    `json:"seat"`
}

type SeatReserved struct {
	Ticket string `json:"ticket"`
}

// ReserveSeat is a contract: sender and participant share this value.
var ReserveSeat = events.NewCommand[ReserveSeatRequest, SeatReserved]("theatre.seat.reserve.v1", "seat_taken")

func ExampleNewCommand() {
	fmt.Println(ReserveSeat.Type(), "goes to", ReserveSeat.Topic())
	// Output: theatre.seat.reserve.v1 goes to theatre.seat.commands
}

func ExampleCommand_Request() {
	now := time.Date(2026, 11, 22, 20, 0, 0, 0, time.UTC)
	sent, _ := ReserveSeat.New("cmd-1", "/sagas/evening-out", ReserveSeatRequest{"Faust", 12}, now)

	request, err := ReserveSeat.Request(&sent)
	fmt.Println(request.Show, request.Seat, err)

	_, err = ReserveSeat.Request(&events.Event{ID: "cmd-2", Type: ReserveSeat.Type(), Data: []byte(`{"show":1}`)})
	fmt.Println(errors.Is(err, events.ErrInvalid))
	// Output:
	// Faust 12 <nil>
	// true
}

func ExampleReject() {
	err := events.Reject("seat_taken", "seat %d of %s is taken", 12, "Faust")

	var rejection *events.Rejection
	fmt.Println(errors.As(err, &rejection), rejection.Code, "-", rejection.Message)
	// Output: true seat_taken - seat 12 of Faust is taken
}

func ExampleNewReply() {
	command := events.Event{ID: "cmd-1", Type: ReserveSeat.Type(), CorrelationID: "saga-1", PartitionKey: "saga-1"}
	reply, _ := events.NewReply(&command, "/seats", []byte(`{"ticket":"T-7"}`), nil, time.Time{})

	commandType, rejected, _ := events.ReplyOf(&reply)
	fmt.Println(commandType, rejected, "for", reply.CorrelationID)
	// Output: theatre.seat.reserve.v1 false for saga-1
}

func ExampleBinding_Encode() {
	e := events.Event{ID: "1", Source: "/seats", Type: "theatre.seat.sold.v1", Subject: "Zweig, Österreich"}
	events.NATS.Encode(&e, func(name, value string) { fmt.Println(name + ": " + value) })
	// Output:
	// ce-specversion: 1.0
	// ce-id: 1
	// ce-source: /seats
	// ce-type: theatre.seat.sold.v1
	// ce-subject: Zweig,%20%C3%96sterreich
}

func ExampleBinding_Decoder() {
	decoder := events.Kafka.Decoder()
	for _, header := range [][2]string{
		{"ce_specversion", "1.0"},
		{"ce_id", "1"},
		{"ce_source", "/seats"},
		{"ce_type", "theatre.seat.sold.v1"},
		{"content-type", "application/json"},
	} {
		decoder.Header(header[0], header[1])
	}
	e, err := decoder.Event([]byte(`{"ticket":"T-7"}`))
	fmt.Println(e.Type, string(e.Data), err)
	// Output: theatre.seat.sold.v1 {"ticket":"T-7"} <nil>
}

func ExampleDeriveID() {
	first := events.DeriveID("saga-1", "reserve-seat", "do")
	fmt.Println(first == events.DeriveID("saga-1", "reserve-seat", "do"))
	fmt.Println(first == events.DeriveID("saga-1", "reserve-seat", "undo"))
	// Output:
	// true
	// false
}
