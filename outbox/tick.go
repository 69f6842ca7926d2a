package outbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outboxrelay/outboxrelay/outbox/internal/outboxdb"
)

// DB is a connection, pool or transaction to read with.
type DB = outboxdb.DBTX

// PlanSettings are for every session that reads. The outbox's statistics are always stale (it grows at one end and shrinks at the other), and
// a plan made from them would now and then scan all of it; every read here has an index made for it. So each is planned once, not each time: that
// took most of the CPU of reading a small batch.
const PlanSettings = "SET jit = off; SET enable_seqscan = off; SET enable_bitmapscan = off; SET plan_cache_mode = force_generic_plan"

// Genesis is the snapshot before all transactions: the cursor of a relay that has never committed a tick.
const Genesis = "1:1:"

// Tick is what the relay has committed at once: the rows that Snapshot sees and AfterSnapshot doesn't, with consecutive positions. It is one
// row of relay.ticks and one batch, or several of them where the rows are cut at membership changes. The zero Tick stands before all events.
type Tick struct {
	Position      int64 // of the last row, µs; 0 for the zero Tick
	After         int64 // position of the tick before, 0 for the first
	Snapshot      string
	AfterSnapshot string // snapshot of the tick before
	Events        int64
	At            time.Time
	Cluster       Cluster
	Replayable    bool // the rows can be read again: the tick before hasn't been deleted
}

// Cluster identifies a Postgres history: the server's system identifier and its timeline, which a promotion raises.
type Cluster struct {
	SystemID, Timeline int64
}

// Row is an outbox row with its place in the log.
type Row struct {
	Position    int64 // µs, unique in the database, strictly increasing in the order of the log; below 2^53
	ID          int64
	Program     string
	Event       string
	Request     *string
	Data        string // JSON text, as written
	ByID        *string
	ByName      *string
	CreatedAt   time.Time // microseconds
	Control     bool      // a membership change: ByID is the user, Data tells the change
	TickThrough int64     // position of the last row of its batch
}

// Server is what a relay must know of the server before it reads.
type Server struct {
	Cluster Cluster
	Standby bool      // in recovery: its snapshots lack open transactions, so it must never be read
	Now     time.Time // the database's clock
}

// ReadServer asks the server who it is.
func ReadServer(ctx context.Context, db DB) (Server, error) {
	const query = `SELECT (SELECT system_identifier FROM pg_control_system()),
	       CASE WHEN pg_is_in_recovery() THEN 0 ELSE ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::bigint END,
	       pg_is_in_recovery(), clock_timestamp()`
	var s Server
	if err := db.QueryRow(ctx, query).Scan(&s.Cluster.SystemID, &s.Cluster.Timeline, &s.Standby, &s.Now); err != nil {
		return Server{}, fmt.Errorf("identify the server: %w", err)
	}
	return s, nil
}

// NewestTick returns the newest tick, or the zero Tick with snapshot Genesis if there is none yet.
func NewestTick(ctx context.Context, db DB) (Tick, error) {
	r, err := queries.NewestTick(ctx, db)
	if errors.Is(err, pgx.ErrNoRows) {
		return Tick{Snapshot: Genesis}, nil
	}
	if err != nil {
		return Tick{}, fmt.Errorf("read the newest tick: %w", err)
	}
	return Tick{
		Position: r.Position, After: r.Base, Snapshot: r.Snapshot, AfterSnapshot: r.BaseSnapshot, Events: r.Events, At: r.At.Time,
		Cluster: Cluster{SystemID: r.SystemID, Timeline: r.Timeline}, Replayable: r.Replayable,
	}, nil
}

var queries = outboxdb.New()
