package relay

import "time"

// SetQuiet makes r fall asleep after d without events.
func SetQuiet(r *Relay, d time.Duration) { r.quiet = d }
