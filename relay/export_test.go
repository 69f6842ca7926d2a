package relay

import "time"

// SetQuiet makes r fall asleep after d without events.
func SetQuiet(r *Relay, d time.Duration) { r.quiet = d }

// SetPoll makes a sleeping relay read only this often without being woken.
func SetPoll(r *Relay, d time.Duration) { r.poll = d }
