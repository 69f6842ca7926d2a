package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

// maxTokenTTL keeps what the command line mints short-lived.
const maxTokenTTL = 24 * time.Hour

func (p *program) tokenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "token",
		Short:   "mint a short-lived token for a user with JWT_ACCESS_SECRET",
		Example: "  outbox-relay token --user u1",
		Args:    noArgs,
	}
	user := cmd.Flags().String("user", "", "the user's id (sub)")
	ttl := cmd.Flags().Duration("ttl", 15*time.Minute, "time until it expires, at most 24h")
	bind(cmd.Flags(), some(tokenSettings...))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, bad := load(cmd.Flags(), p.getenv, some(tokenSettings...))
		bad.require(&c, map[string]string{"JWT_ACCESS_SECRET": wantSecret + " (" + wantMint + ")"})
		if *user == "" {
			bad.lines = append(bad.lines, "--user: not set: want the id of a user, such as u1")
		}
		if *ttl < time.Second || *ttl > maxTokenTTL {
			bad.lines = append(bad.lines, fmt.Sprintf("--ttl: %v is not between 1s and %v", *ttl, maxTokenTTL))
		}
		if err := bad.err(); err != nil {
			return err
		}
		token, err := c.auth.Mint(*user, *ttl)
		if err != nil {
			return usage("--user: %v", err)
		}
		_, err = fmt.Fprintln(p.stdout, token)
		return err
	}
	return cmd
}
