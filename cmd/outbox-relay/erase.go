package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"

	"github.com/outboxrelay/outboxrelay/relay"
)

func (p *program) eraseCommand() *cobra.Command {
	var id int64
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "erase",
		Short: "blank the data of one event, for legal reasons",
		Long: "Sets the data of one event to {} in the outbox and in Redis. Its place in the log stays, and so does everything else of it;\n" +
			"whoever has not got it yet gets it blank. Clients that have got it keep it: tell them by an event of your own.\n" +
			"The role needs to be a member of relay_relay. It may be run again.",
		Example: "  outbox-relay erase --event 42",
		Args:    noArgs,
	}
	cmd.Flags().Int64Var(&id, "event", 0, "the event's id")
	cmd.Flags().DurationVar(&wait, "wait", 30*time.Second, "how long to wait for an event that is not published yet")
	bind(cmd.Flags(), some(serviceSettings...))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, bad := load(cmd.Flags(), p.getenv, some(serviceSettings...))
		bad.require(&c, map[string]string{"DATABASE_URL": wantDatabase, "REDIS_URL": wantRedis})
		if id <= 0 {
			bad.lines = append(bad.lines, "--event: want the id of an event, as in its frame")
		}
		if err := bad.err(); err != nil {
			return err
		}
		position, err := erase(cmd.Context(), &c, id, wait)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(p.stdout, "event %d at %d is blank\n", id, position)
		return err
	}
	return cmd
}

func erase(ctx context.Context, c *config, id int64, wait time.Duration) (position int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	err = withServices(ctx, c, func(pool *pgxpool.Pool, client redis.UniversalClient) (err error) {
		position, err = relay.Erase(ctx, pool, client, id)
		return err
	})
	return position, err
}
