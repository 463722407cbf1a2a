// Package gateway is the HTTP front of the platform: it turns requests into
// commands on the broker, answers for what became of them, takes the signals that
// running sagas wait for and the facts that others tell, and passes reads on to the
// services. What it serves is a route table in YAML, see [ParseTable]:
//
//	version: 1
//	upstreams:
//	  order: {url: "${ORDER_URL:-http://127.0.0.1:8091}"}
//	routes:
//	  - id: place-order
//	    kind: command
//	    match: POST /v1/orders
//	    command: shop.checkout.request.v1
//	    wait: {default: 0s, max: 30s}
//	    outcome:
//	      completed: {status: 201, location: "/v1/orders/{id}"}
//	      rejected: {card_declined: 402, out_of_stock: 409}
//	  - id: partner-events
//	    kind: events
//	    match: POST /v1/partners/orders
//	    types: [shop.order.placed.v1]
//	  - id: order
//	    kind: proxy
//	    match: GET /v1/orders/{id}
//	    upstream: order
//
// Who may send a request is up to the table's auth; without one the gateway asks
// nobody.
//
// Two resources are always there: POST /v1/commands/{type} takes every command
// that starts a saga, and GET /v1/operations/{id} tells what became of one.
//
// # Promises
//
//	A 202 is sent only after         the broker's durable ack
//	A refused request                has started nothing
//	A 503 broker_unavailable         may have started it: repeat it with the same Idempotency-Key
//	The same key and body            give the same operation, on every replica
//	The same key, another body       is refused while the first is held by the broker's
//	                                 duplicate window or known to Operations
//	An id the gateway never gave     is a 404; one it gave is never a 404 within a day
//	A client that goes away          cancels nothing
//	A wait                           ends at its time, at the outcome or at Drain, whichever is first
//	Every error the gateway answers  is a problem document (RFC 9457) without internals
//	Events of one request            all pass every check, or none is published
//	A body of an accepted command    is passed on byte for byte, after it was checked to be
//	                                 I-JSON (RFC 7493) and valid against the command's schema
//
// What net/http itself refuses before a handler runs (a malformed request line
// or framing, oversized headers) is answered in plain text.
//
// The package holds no state between requests but its waiting requests. It
// knows no broker and no database: it publishes through [Publisher] and reads
// through [Operations].
package gateway
