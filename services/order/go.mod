module github.com/countermand/countermand/services/order

go 1.26.0

require (
	github.com/ThreeDotsLabs/watermill v1.5.1
	github.com/countermand/countermand/events v0.0.0
	github.com/countermand/countermand/platform v0.0.0
	github.com/google/uuid v1.6.0
	github.com/jackc/pgx/v5 v5.12.0
)

replace github.com/countermand/countermand/events => ../../events

replace github.com/countermand/countermand/platform => ../../platform

replace github.com/countermand/countermand/platform/embedded => ../../platform/embedded
