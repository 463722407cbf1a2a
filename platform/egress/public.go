package egress

import (
	"net/netip"
	"slices"
)

// global is the one block of IPv6 that public addresses are from. Everything outside it
// is local, mapped, translated (NAT64) or unassigned.
var global = netip.MustParsePrefix("2000::/3")

// notPublic lists what of IPv4 and of that block is not a machine on the internet: the
// special-purpose registries of IANA, and the metadata services that clouds have put
// on addresses which look public.
var notPublic = prefixes(
	"0.0.0.0/8",         // this network
	"10.0.0.0/8",        // private
	"100.64.0.0/10",     // carrier-grade NAT; Alibaba's metadata
	"127.0.0.0/8",       // loopback
	"168.63.129.16/32",  // Azure's virtual machine bus
	"169.254.0.0/16",    // link-local; most metadata services
	"172.16.0.0/12",     // private
	"192.0.0.0/24",      // protocol assignments; Oracle's metadata
	"192.0.2.0/24",      // documentation
	"192.88.99.0/24",    // 6to4 relays
	"192.168.0.0/16",    // private
	"198.18.0.0/15",     // benchmarks
	"198.51.100.0/24",   // documentation
	"203.0.113.0/24",    // documentation
	"224.0.0.0/4",       // multicast
	"240.0.0.0/4",       // reserved; broadcast
	"2001::/23",         // protocol assignments: Teredo, ORCHID
	"2001:db8::/32",     // documentation
	"2002::/16",         // 6to4, which carries an IPv4 address
	"2620:4f:8000::/48", // AS112
	"3fff::/20",         // documentation
)

func prefixes(texts ...string) []netip.Prefix {
	all := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		all[i] = netip.MustParsePrefix(text)
	}
	return all
}

// public reports an address of a machine on the internet; it must be unmapped.
func public(address netip.Addr) bool {
	if !address.Is4() && !global.Contains(address) {
		return false
	}
	return !slices.ContainsFunc(notPublic, func(p netip.Prefix) bool { return p.Contains(address) })
}
