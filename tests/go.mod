module github.com/countermand/countermand/tests

go 1.26.0

require (
	github.com/countermand/countermand/platform/embedded v0.0.0
	github.com/jackc/pgx/v5 v5.12.0
	go.opentelemetry.io/proto/otlp v1.11.0
	google.golang.org/protobuf v1.36.12
)

replace github.com/countermand/countermand/platform/embedded => ../platform/embedded
