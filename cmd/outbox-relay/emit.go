package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/outboxrelay/outboxrelay/migrations"
	"github.com/outboxrelay/outboxrelay/outbox"
)

func (p *program) emitCommand() *cobra.Command {
	var (
		event      outbox.Event
		name, data string
	)
	cmd := &cobra.Command{
		Use:     "emit",
		Short:   "emit one event in a transaction of its own and print its id",
		Example: `  outbox-relay emit --program p1 --event request:created --request r1 --data '{"title":"x"}'`,
		Args:    noArgs,
	}
	flags := cmd.Flags()
	flags.StringVar(&event.Program, "program", "", "whose members get it")
	flags.StringVar(&name, "event", "", "noun:verb, such as request:created")
	flags.StringVar(&event.Request, "request", "", "the request's id (optional)")
	flags.StringVar(&data, "data", "{}", "a JSON object of at most 256 KiB")
	flags.StringVar(&event.By.UserID, "by", "", "id of the user who did it (optional)")
	flags.StringVar(&event.By.Name, "by-name", "", "that user's name (optional)")
	bind(flags, some(databaseSettings...))
	cmd.RunE = p.withDatabase(func(cmd *cobra.Command, databaseURL string) error {
		event.Name, event.Data = outbox.Name(name), json.RawMessage(data)
		id, err := emit(cmd.Context(), databaseURL, event)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(p.stdout, id)
		return err
	})
	return cmd
}

func emit(ctx context.Context, databaseURL string, event outbox.Event) (id int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 4*connectTimeout)
	defer cancel()
	conn, err := connect(ctx, databaseURL)
	if err != nil {
		return 0, fmt.Errorf("connect to DATABASE_URL: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := migrations.Check(ctx, conn); err != nil {
		return 0, err
	}
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		ids, err := outbox.Emit(ctx, tx, event)
		if err != nil {
			return err
		}
		id = ids[0]
		return nil
	})
	var invalid *outbox.InvalidError
	if errors.As(err, &invalid) {
		return 0, usage("--%s: %s", emitFlag(invalid.Field), invalid.Reason)
	}
	return id, err
}

// emitFlag is the flag that a column was given by.
func emitFlag(column string) string {
	switch column {
	case "performed_by_id":
		return "by"
	case "performed_by_name":
		return "by-name"
	}
	return strings.TrimSuffix(column, "_id")
}
