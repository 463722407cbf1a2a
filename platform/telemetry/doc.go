// Package telemetry lets an operator see what a process does: structured logs
// that name their trace, OpenTelemetry traces that follow an event through the
// broker, Prometheus metrics, and the probes an orchestrator of containers asks.
//
// A process calls [NewLogger] and [Start] once, hands what they return to its
// parts, and serves [NewAdminMux] on its admin listener, which must not be
// reachable from outside.
package telemetry
