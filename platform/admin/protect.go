package admin

import (
	"net"
	"net/http"
	"net/netip"
)

// Protect keeps web pages out of an API of the admin listener that a browser on the
// operator's machine shows: it refuses requests of other origins, and those to a
// loopback listener under a name that is not its own. No answer is taken for what its
// type does not say.
func Protect(next http.Handler) http.Handler {
	protection := http.NewCrossOriginProtection()
	protection.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		refuse(w, r, http.StatusForbidden, "cross_origin", "a page of another origin must not give orders")
	}))
	inner := protection.Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok && local.IP.IsLoopback() && !loopback(r.Host) {
			refuse(w, r, http.StatusForbidden, "host_not_allowed", "this listener is on loopback and is called localhost or by its address, not "+r.Host)
			return
		}
		inner.ServeHTTP(w, r)
	})
}

func loopback(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}
