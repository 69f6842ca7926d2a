package relay_test

import (
	"context"
	"fmt"
	"os/exec"
	"testing"
	"time"

	"github.com/outboxrelay/outboxrelay/internal/devstack"
	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/migrations"
	"github.com/outboxrelay/outboxrelay/outbox"
)

// restart stops Postgres, changes its files by a command, and starts it.
func (s *stack) restart(pg *devstack.Postgres, command ...string) {
	s.t.Helper()
	ctx := testenv.Context(s.t, time.Minute)
	if err := pg.Stop(ctx); err != nil {
		s.t.Fatal(err)
	}
	if out, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput(); err != nil {
		s.t.Fatalf("%q: %v\n%s", command, err, out)
	}
	if err := pg.Start(ctx); err != nil {
		s.t.Fatal(err)
	}
	s.pool.Reset()
}

// newHistory waits until a new history has begun above the position seen, and checks what it says of the one before.
func (s *stack) newHistory(seen, from int64) {
	s.t.Helper()
	testenv.Eventually(s.t, 15*time.Second, func() error {
		var position, rebased int64
		err := s.pool.QueryRow(s.t.Context(), "SELECT position, rebased_from FROM relay.ticks WHERE rebased_from IS NOT NULL").Scan(&position, &rebased)
		if err == nil && (position < seen+9_000_000 || rebased != from) {
			s.t.Fatalf("the new history begins at %d for those above %d, want well above %d, and %d", position, rebased, seen, from)
		}
		return err
	})
}

// A volume's snapshot that is brought back keeps the system's identifier and its timeline: the database looked like the one that it had been, Redis
// kept what was no more, and nobody was told.
func TestAnOlderCopyOfTheDatabaseBeginsANewHistory(t *testing.T) {
	t.Parallel()
	pg := testenv.OwnPostgres(t, devstack.PostgresConfig{})
	if err := migrations.Up(t.Context(), pg.URL()); err != nil {
		t.Fatal(err)
	}
	s := &stack{t: t, pool: testenv.Pool(t, pg.URL()), url: pg.URL(), redis: openRedis(t, testenv.Redis(t))}
	r := s.relay(nil)
	kept := s.emit("p0", nil)
	s.eventuallyLog("p0", kept)
	r.stop()
	snapshot := pg.DataDir + ".snapshot"
	s.restart(pg, "cp", "-a", pg.DataDir, snapshot)
	survived := s.newest()
	r = s.relay(nil)
	lost := s.emit("p0", nil)
	s.eventuallyLog("p0", kept, lost)
	s.eventuallyLog("p1", s.emit("p1", nil))
	r.stop()
	seen := s.newest()
	s.restart(pg, "sh", "-c", `rm -r "$1" && mv "$2" "$1"`, "sh", pg.DataDir, snapshot)
	r = s.relay(nil)
	s.newHistory(seen, survived)
	s.eventuallyLog("p0", kept)
	s.eventuallyLog("p1")
	r.stop()

	// A relay that died between the tick of the new history and the logs that must go leaves the old head.
	clusterOf := "SELECT system_id || ':' || timeline || ':' FROM relay.ticks LIMIT 1"
	var head string
	if err := s.pool.QueryRow(t.Context(), clusterOf).Scan(&head); err != nil {
		t.Fatal(err)
	}
	pipe := s.redis.TxPipeline()
	pipe.Set(t.Context(), "socket:events:head", head+fmt.Sprint(seen), 0)
	pipe.Do(t.Context(), "ZADD", "socket:events:program:p1", seen, fmt.Sprintf(`{"id":"%d","position":"%d"}`, lost+1, seen))
	if _, err := pipe.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	r = s.relay(nil)
	s.eventuallyLog("p1")
	s.eventuallyLog("p0", kept, s.emit("p0", nil))
	r.stop()
}

// Who drops the schema and makes it anew leaves a Redis, and browsers, that know more than there is.
func TestASchemaMadeAnewBeginsANewHistory(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	r := s.relay(nil)
	s.eventuallyLog("p0", s.emit("p0", nil))
	s.eventuallyLog("p1", s.emit("p1", nil))
	seen := s.newest()
	r.stop()
	s.left()
	if _, err := s.pool.Exec(t.Context(), "DROP SCHEMA relay CASCADE; DROP TABLE goose_db_version"); err != nil {
		t.Fatal(err)
	}
	if err := migrations.Up(t.Context(), s.url); err != nil {
		t.Fatal(err)
	}
	s.pool.Reset()
	waiting := s.emit("p0", nil)
	s.relay(nil)
	s.newHistory(seen, 0)
	s.eventuallyLog("p0", waiting)
	s.eventuallyLog("p1")
}

func (s *stack) newest() int64 {
	s.t.Helper()
	newest, err := outbox.NewestTick(context.WithoutCancel(s.t.Context()), s.pool)
	if err != nil {
		s.t.Fatal(err)
	}
	return newest.Position
}
