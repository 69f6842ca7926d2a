package relay

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const policyEvery = 30 * time.Second

// evictionPolicy asks Redis whether it may delete logs to make room, and returns its policy if so; "" if it never does, or doesn't say.
func evictionPolicy(ctx context.Context, db redis.UniversalClient) (policy string, err error) {
	info, err := db.Info(ctx, "memory").Result()
	if err != nil {
		return "", err
	}
	limit := ""
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch name {
		case "maxmemory":
			limit = value
		case "maxmemory_policy":
			policy = value
		}
	}
	if limit == "" || limit == "0" || policy == "noeviction" {
		return "", nil
	}
	return policy, nil
}

// checkEviction says so if Redis may evict: whatever it evicts is refilled, late, and nothing is lost that Postgres holds. A server that
// doesn't answer INFO (its user may not) is taken at its best.
func (s *session) checkEviction(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, redisTimeout)
	defer cancel()
	switch policy, err := evictionPolicy(ctx, s.log.redis); {
	case err != nil: // Redis being away is said elsewhere
	case policy == "":
		s.health.set(stateEviction, "")
	default:
		s.health.set(stateEviction, "Redis may evict events when its memory is full (maxmemory-policy "+policy+"): set it to noeviction")
	}
}

// eviction remembers whether Redis may evict, for readers: a key that isn't there says nothing then.
type eviction struct {
	mu    sync.Mutex
	asked time.Time
	may   bool
}

func (e *eviction) possible(ctx context.Context, db redis.UniversalClient) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if time.Since(e.asked) > policyEvery {
		e.asked = time.Now()
		if policy, err := evictionPolicy(ctx, db); err == nil {
			e.may = policy != ""
		}
	}
	return e.may
}
