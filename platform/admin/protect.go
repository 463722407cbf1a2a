package admin

import "net/http"

// Protect puts a handler of another package behind what keeps web pages out of this
// API: it refuses requests of other origins, and those to a loopback listener under
// a name that is not its own.
func Protect(next http.Handler) http.Handler { return guard(next) }
