package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/outboxrelay/outboxrelay/migrations"
)

func (p *program) migrateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "apply the schema to the database, or look at it",
		Args:  noArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	up := &cobra.Command{
		Use:   "up",
		Short: "apply the migrations that are missing",
		Args:  noArgs,
		RunE: p.withDatabase(func(cmd *cobra.Command, databaseURL string) error {
			if err := migrations.Up(cmd.Context(), databaseURL); err != nil {
				return fmt.Errorf("migrate %s: %w", databaseName(databaseURL), err)
			}
			_, err := fmt.Fprintf(p.stdout, "%s has schema version %d\n", databaseName(databaseURL), migrations.Version)
			return err
		}),
	}
	status := &cobra.Command{
		Use:   "status",
		Short: "list the migrations; exit code 1 if one is missing",
		Args:  noArgs,
		RunE: p.withDatabase(func(cmd *cobra.Command, databaseURL string) error {
			list, err := migrations.List(cmd.Context(), databaseURL)
			if err != nil {
				return fmt.Errorf("read the migrations of %s: %w", databaseName(databaseURL), err)
			}
			missing := 0
			for _, m := range list {
				state := "applied"
				if !m.Applied {
					state = "missing"
					missing++
				}
				fmt.Fprintf(p.stdout, "%s  %s\n", state, m.Name)
			}
			if missing > 0 {
				return errors.New("migrations are missing: run `outbox-relay migrate up`")
			}
			return nil
		}),
	}
	for _, c := range []*cobra.Command{up, status} {
		bind(c.Flags(), some(databaseSettings...))
		cmd.AddCommand(c)
	}
	return cmd
}

// withDatabase is the body of a command that needs DATABASE_URL and no other setting.
func (p *program) withDatabase(body func(cmd *cobra.Command, databaseURL string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		c, bad := load(cmd.Flags(), p.getenv, some(databaseSettings...))
		bad.require(&c, map[string]string{"DATABASE_URL": wantDatabase})
		if err := bad.err(); err != nil {
			return err
		}
		return body(cmd, c.databaseURL)
	}
}
