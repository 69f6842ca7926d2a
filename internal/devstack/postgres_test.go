//go:build unix

package devstack_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outboxrelay/outboxrelay/internal/devstack"
)

func TestTemporaryClusterHasTheSettingsAsked(t *testing.T) {
	t.Parallel()
	p := start(t, devstack.PostgresConfig{NoSync: true, MaxPrepared: 7, Settings: map[string]string{"work_mem": "5MB"}})
	got := query(t, p.URL(), `SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_settings WHERE name IN
		('fsync', 'max_connections', 'max_prepared_transactions', 'server_encoding', 'TimeZone', 'work_mem', 'unix_socket_directories')`)
	want := "TimeZone=UTC fsync=off max_connections=300 max_prepared_transactions=7 server_encoding=UTF8 unix_socket_directories= work_mem=5120"
	if got != want {
		t.Errorf("settings\n got %s\nwant %s", got, want)
	}
	if got := query(t, p.URL(), "SELECT datcollate FROM pg_database WHERE datname = current_database()"); got != "C" {
		t.Errorf("locale %q, want C", got)
	}
	dir := filepath.Dir(p.DataDir)
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("temporary folder after Close: %v, want gone", err)
	}
}

func TestCopiesShareTheSystemIdentifierUnlessFresh(t *testing.T) {
	t.Parallel()
	const identifier = "SELECT system_identifier::text FROM pg_control_system()"
	a := query(t, start(t, devstack.PostgresConfig{NoSync: true}).URL(), identifier)
	b := query(t, start(t, devstack.PostgresConfig{NoSync: true}).URL(), identifier)
	fresh := query(t, start(t, devstack.PostgresConfig{NoSync: true, FreshIdentity: true}).URL(), identifier)
	if a != b || a == fresh {
		t.Errorf("system identifiers %s, %s, fresh %s: want the first two equal, the third another", a, b, fresh)
	}
}

func TestDataSurvivesAndASecondStartAttaches(t *testing.T) {
	t.Parallel()
	// The path is longer than a unix socket's may be.
	dir := filepath.Join(dataDir(t), strings.Repeat("long-", 22)+"folder", "data")
	cfg := devstack.PostgresConfig{DataDir: dir, Database: "app"}
	first := start(t, cfg)
	query(t, first.URL(), "SELECT set_config('x.y', '', false) FROM (SELECT pg_current_xact_id()) s")
	second := start(t, cfg)
	if !second.Attached || second.URL() != first.URL() {
		t.Errorf("second start: attached %v at %q, want true at %q", second.Attached, second.URL(), first.URL())
	}
	if err := second.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := query(t, first.URL(), "SELECT current_database()"); got != "app" {
		t.Errorf("database %q, want app", got)
	}
	execSQL(t, first.URL(), "CREATE TABLE kept ()")
	if err := first.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	third := start(t, cfg)
	if third.Attached || query(t, third.URL(), "SELECT to_regclass('kept')::text") != "kept" {
		t.Errorf("third start: attached %v, want a start of its own with the table kept", third.Attached)
	}
}

func execSQL(t *testing.T, url, sql string) {
	t.Helper()
	ctx := testContext(t, 20*time.Second)
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func TestForeignFolderIsLeftAlone(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "thesis.txt"), []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := devstack.StartPostgres(testContext(t, time.Minute), devstack.PostgresConfig{DataDir: dir})
	if err == nil || !strings.Contains(err.Error(), "neither empty nor a PostgreSQL cluster") {
		t.Errorf("error %v, want one that says what the folder is not", err)
	}
}

func TestChildrenDieWithTheirParent(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	cmd, pg, redis := spawnParent(t, dir)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // an unreaped process would count as alive
	// A start right after the kill meets the old server on its way down, and waits for it.
	next := start(t, devstack.PostgresConfig{DataDir: dir})
	if next.Attached {
		t.Error("attached to the server of a killed process")
	}
	gone(t, "PostgreSQL", pg)
	gone(t, "Redis", redis)
}

func TestLadderErrorsAreOneLine(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]devstack.PostgresConfig{
		"no such rung":  {Rung: "cloud"},
		"url without":   {Rung: "url"},
		"url unreached": {URL: "postgres://127.0.0.1:1/x?connect_timeout=2"},
	} {
		_, err := devstack.StartPostgres(testContext(t, 20*time.Second), cfg)
		if err == nil || strings.Contains(strings.TrimSpace(err.Error()), "\n") && name != "url unreached" {
			t.Errorf("%s: error %q, want one line", name, err)
		}
	}
}

func TestStandbyFollowsAndIsPromoted(t *testing.T) {
	t.Parallel()
	ctx := testContext(t, time.Minute)
	primary := start(t, devstack.PostgresConfig{})
	if _, err := os.Stat(filepath.Join(primary.BinDir, "pg_basebackup")); err != nil {
		t.Skip("this PostgreSQL has no pg_basebackup")
	}
	execSQL(t, primary.URL(), "CREATE TABLE followed ()")
	standby, err := primary.Standby(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = standby.Close(context.WithoutCancel(ctx)) })
	const recovery = "SELECT pg_is_in_recovery()::text || (to_regclass('followed') IS NOT NULL)::text"
	if got := query(t, standby.URL(), recovery); got != "truetrue" {
		t.Errorf("the standby: in recovery and followed %s, want truetrue", got)
	}
	if err := standby.Promote(ctx); err != nil {
		t.Fatal(err)
	}
	execSQL(t, standby.URL(), "CREATE TABLE written ()")
}
