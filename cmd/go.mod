module github.com/countermand/countermand/cmd

go 1.26.0

require (
	github.com/countermand/countermand/events v0.0.0
	github.com/countermand/countermand/platform v0.0.0
	github.com/countermand/countermand/platform/embedded v0.0.0
	github.com/countermand/countermand/sagas v0.0.0
	github.com/countermand/countermand/services/inventory v0.0.0
	github.com/countermand/countermand/services/order v0.0.0
	github.com/countermand/countermand/services/payment v0.0.0
	github.com/jackc/pgx/v5 v5.12.0
	github.com/nats-io/nats.go v1.55.0
	github.com/prometheus/client_golang v1.25.0
	github.com/spf13/cobra v1.10.2
	go.uber.org/fx v1.24.0
	golang.org/x/term v0.47.0
)

replace github.com/countermand/countermand/events => ../events

replace github.com/countermand/countermand/platform => ../platform

replace github.com/countermand/countermand/sagas => ../sagas

replace github.com/countermand/countermand/services/order => ../services/order

replace github.com/countermand/countermand/services/payment => ../services/payment

replace github.com/countermand/countermand/services/inventory => ../services/inventory

replace github.com/countermand/countermand/platform/embedded => ../platform/embedded
