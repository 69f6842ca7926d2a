package main

import "github.com/spf13/cobra"

func (p *program) serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "run the relay, the WebSocket server or both (ROLE)",
		Long: "Runs the relay (outbox to Redis), the WebSocket server (Redis to clients) or both, as ROLE says.\n\n" +
			"Every flag can be given in the environment under the name in brackets. The database must have been migrated\n" +
			"(`outbox-relay migrate up`). On SIGINT or SIGTERM it closes its sockets over SHUTDOWN_GRACE and exits with 0.",
		Args: noArgs,
	}
	bind(cmd.Flags(), settings())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, bad := load(cmd.Flags(), p.getenv, settings())
		bad.check(&c)
		if err := bad.err(); err != nil {
			return err
		}
		s, err := newServer(cmd.Context(), &c, c.logger(p.stderr))
		if err != nil {
			return quiet(cmd.Context(), err)
		}
		defer s.close()
		return s.run(cmd.Context())
	}
	return cmd
}
