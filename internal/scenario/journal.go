package scenario

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"
)

// Journal is what the writers did. Every event carries a key, unique in the journal, in its data.
type Journal struct {
	pool     *pgxpool.Pool
	prefix   string // of the programs' names; a number follows
	programs int

	mu           sync.Mutex
	transactions []*transaction
	errors       []error
	outages      int               // connection errors that Mix tolerates
	commits      []time.Duration   // what each COMMIT took
	remembered   map[string]string // programs of events by key; see Remember
	sequence     atomic.Int64
}

// transaction is one attempt of one writer.
type transaction struct {
	began    time.Time // before BEGIN was sent
	issued   time.Time // before COMMIT was sent
	returned time.Time // after COMMIT had returned
	outcome  outcome
	keys     []string // of the events, in statement order; those of rolled-back savepoints are not among them
	programs []string
}

type outcome int

const (
	rolledBack outcome = iota
	committed
	unknown // the server went away during COMMIT
)

// NewJournal returns an empty journal of writers to programs p0 … p<programs-1>.
func (w *World) NewJournal(programs int) *Journal { return NewJournal(w.Pool, "p", programs) }

// NewJournal is the same for programs of any name: prefix0 …
func NewJournal(pool *pgxpool.Pool, prefix string, programs int) *Journal {
	return &Journal{pool: pool, prefix: prefix, programs: programs, remembered: map[string]string{}}
}

// Forgive makes every committed transaction one of unknown outcome: its COMMIT had returned, but Postgres was allowed to forget it.
func (j *Journal) Forgive() {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, tx := range j.transactions {
		if tx.outcome == committed {
			tx.outcome = unknown
		}
	}
}

// Mix is what a writer's transactions are like.
type Mix struct {
	Writers  int
	Pause    time.Duration // longest between two transactions of a writer
	Sleep    time.Duration // longest of the transactions that stay open for a while
	Async    bool          // commits that a crash of Postgres may take back
	Tolerate bool          // the writers may lose their connections (Postgres is being killed); other errors are errors all the same
	Prepare  bool          // two-phase commits
	Seed     uint64
}

// Write runs the writers until ctx ends: quick commits, rollbacks, savepoints with partial rollback, and transactions that stay open.
// An error that Mix doesn't tolerate is kept for Check.
func (j *Journal) Write(ctx context.Context, m Mix) {
	var group errgroup.Group
	for w := range m.Writers {
		group.Go(func() error {
			rng := rand.New(rand.NewPCG(m.Seed, uint64(w)))
			for ctx.Err() == nil {
				if err := j.one(ctx, rng, m); err != nil {
					j.failed(err, m)
				}
				if m.Pause > 0 && !wait(ctx, time.Duration(rng.Int64N(int64(m.Pause)))) {
					return nil
				}
			}
			return nil
		})
	}
	_ = group.Wait()
}

func (j *Journal) failed(err error, m Mix) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if m.Tolerate && disconnected(err) {
		j.outages++
		return
	}
	j.errors = append(j.errors, err)
}

// disconnected tells whether an error is that of a server that isn't there or goes away, not of a statement.
func disconnected(err error) bool {
	var answer *pgconn.PgError
	if !errors.As(err, &answer) {
		return true
	}
	return strings.HasPrefix(answer.Code, "57P0") || strings.HasPrefix(answer.Code, "08") || answer.Code == "53300"
}

// one runs one transaction to its end, even if ctx ends meanwhile.
func (j *Journal) one(ctx context.Context, rng *rand.Rand, m Mix) error {
	ctx = context.WithoutCancel(ctx)
	return j.transact(ctx, m, func(e *emitter) (commit bool, err error) {
		for range 1 + rng.IntN(3) {
			if err := e.emit(j.program(rng)); err != nil {
				return false, err
			}
		}
		switch rng.IntN(10) {
		case 0:
			return false, nil
		case 1, 2:
			if err := e.undone(j.program(rng)); err != nil {
				return false, err
			}
			return true, e.emit(j.program(rng))
		case 3, 4:
			if m.Sleep > 0 {
				return true, e.exec("SELECT pg_sleep($1)", time.Duration(rng.Int64N(int64(m.Sleep))).Seconds())
			}
		}
		return true, nil
	})
}

func (j *Journal) program(rng *rand.Rand) string {
	return fmt.Sprintf("%s%d", j.prefix, rng.IntN(j.programs))
}

// Emit commits one event in a transaction that stays open for a while after the INSERT, and returns its key when COMMIT has returned.
func (j *Journal) Emit(ctx context.Context, program string, open time.Duration) (key string, err error) {
	err = j.transact(ctx, Mix{}, func(e *emitter) (bool, error) {
		if err := e.emit(program); err != nil {
			return false, err
		}
		key = e.record.keys[0]
		return true, e.exec("SELECT pg_sleep($1)", open.Seconds())
	})
	return key, err
}

// transact runs work in a transaction of its own and writes down how it went.
func (j *Journal) transact(ctx context.Context, m Mix, work func(*emitter) (commit bool, err error)) error {
	record := &transaction{began: time.Now(), outcome: rolledBack}
	conn, err := j.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	e := &emitter{ctx: ctx, tx: tx, journal: j, record: record}
	if m.Async {
		err = e.exec("SET LOCAL synchronous_commit = off")
	}
	var commit bool
	if err == nil {
		commit, err = work(e)
	}
	if err != nil || !commit {
		_ = tx.Rollback(ctx)
		j.add(record, 0)
		return err
	}
	record.issued = time.Now()
	if m.Prepare {
		err = e.commitPrepared()
	} else {
		err = tx.Commit(ctx)
	}
	record.returned, record.outcome = time.Now(), committed
	if err != nil {
		record.outcome = unknown
	}
	j.add(record, record.returned.Sub(record.issued))
	return err
}

func (j *Journal) add(record *transaction, took time.Duration) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.transactions = append(j.transactions, record)
	if record.outcome == committed {
		j.commits = append(j.commits, took)
	}
}

// Keys returns the keys of the events committed so far, each with its program.
func (j *Journal) Keys() map[string]string {
	j.mu.Lock()
	defer j.mu.Unlock()
	keys := map[string]string{}
	for _, tx := range j.transactions {
		if tx.outcome == committed {
			for n, key := range tx.keys {
				keys[key] = tx.programs[n]
			}
		}
	}
	return keys
}

// emitter writes the events of one transaction.
type emitter struct {
	ctx     context.Context //nolint:containedctx // lives as long as one call
	tx      pgx.Tx
	journal *Journal
	record  *transaction
}

func (e *emitter) emit(program string) error {
	key := fmt.Sprint(e.journal.sequence.Add(1))
	if err := e.exec("SELECT relay.emit($1, 'scenario:happened', json_build_object('key', $2::text))", program, key); err != nil {
		return err
	}
	e.record.keys = append(e.record.keys, key)
	e.record.programs = append(e.record.programs, program)
	return nil
}

// undone emits an event and takes it back.
func (e *emitter) undone(program string) error {
	if err := e.exec("SAVEPOINT s"); err != nil {
		return err
	}
	if err := e.emit(program); err != nil {
		return err
	}
	e.record.keys, e.record.programs = e.record.keys[:len(e.record.keys)-1], e.record.programs[:len(e.record.programs)-1]
	return e.exec("ROLLBACK TO SAVEPOINT s")
}

// commitPrepared commits in two phases. Its time counts both.
func (e *emitter) commitPrepared() error {
	name := "scenario-" + e.record.keys[0]
	if err := e.exec("PREPARE TRANSACTION '" + name + "'"); err != nil {
		return err
	}
	if err := e.exec("COMMIT PREPARED '" + name + "'"); err != nil {
		return err
	}
	return e.tx.Commit(e.ctx) // there is none any more: this only gives the connection back
}

func (e *emitter) exec(query string, args ...any) error {
	_, err := e.tx.Exec(e.ctx, query, args...)
	return err
}

func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
