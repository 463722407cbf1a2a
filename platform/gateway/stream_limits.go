package gateway

import "sync"

// followers counts the open streams of each route, tenant and client. A table that is
// replaced does not change who is there.
type followers struct {
	mu   sync.Mutex
	open map[followerKey]int
}

// followerKey is a route, or a tenant or client within it.
type followerKey struct{ route, tenant, client string }

// enter counts one in, unless there are too many. leave counts it out.
func (f *followers) enter(s *streamRoute, identity Identity, most int) (leave func(), problem *Problem) {
	if s.limits.route > 0 {
		most = s.limits.route
	}
	keys := []followerKey{{route: s.id}}
	limits := []int{most}
	if identity.Tenant != "" && s.limits.tenant > 0 {
		keys, limits = append(keys, followerKey{s.id, identity.Tenant, ""}), append(limits, s.limits.tenant)
	}
	if identity.Client != "" && s.limits.client > 0 {
		keys, limits = append(keys, followerKey{s.id, identity.Tenant, identity.Client}), append(limits, s.limits.client)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, key := range keys {
		switch {
		case f.open[key] < limits[i]:
		case i == 0:
			return nil, newProblem(codeOverloaded, "Too many streams are open here. Try again in a moment.")
		default:
			return nil, newProblem(codeTooManyFollowers, "Close one of your streams, or let several readers share one.")
		}
	}
	if f.open == nil {
		f.open = make(map[followerKey]int)
	}
	for _, key := range keys {
		f.open[key]++
	}
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, key := range keys {
			if f.open[key]--; f.open[key] == 0 {
				delete(f.open, key)
			}
		}
	}, nil
}
