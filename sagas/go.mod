module github.com/countermand/countermand/sagas

go 1.26.0

require (
	github.com/countermand/countermand/events v0.0.0
	github.com/countermand/countermand/platform v0.0.0
)

replace github.com/countermand/countermand/events => ../events

replace github.com/countermand/countermand/platform => ../platform

replace github.com/countermand/countermand/platform/embedded => ../platform/embedded
