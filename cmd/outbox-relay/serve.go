package main

import (
	"runtime/debug"

	"github.com/spf13/cobra"
)

// gcPercent is GOGC where it isn't set. Most of a server's memory is that of connections which do nothing, between the garbage of
// their handshakes: 100 costs 1.5 KiB more for each, and saves about a tenth of the CPU under load.
const gcPercent = 33

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
			return err
		}
		defer s.close()
		if p.getenv("GOGC") == "" {
			debug.SetGCPercent(gcPercent)
		}
		return s.run(cmd.Context())
	}
	return cmd
}
