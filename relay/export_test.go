package relay

import "time"

// SetQuiet makes r fall asleep after d without events.
func SetQuiet(r *Relay, d time.Duration) { r.quiet = d }

// SetFallback makes a sleeping relay read only this often without being woken.
func SetFallback(r *Relay, d time.Duration) { r.fallback = d }
