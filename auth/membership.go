package auth

// Membership is what the database said of a user in one statement: the user as of now, the programs as of the newest tick. A
// membership change that this tick doesn't contain yet is undone, because its control entry will follow in the log.
type Membership struct {
	UserID   string
	Found    bool // false: no such user
	Active   bool
	Role     string
	Name     string   // first and last name
	Programs []string // active memberships as of Position, ascending

	Position int64   // the newest tick: every row at or below it has been given its position; 0: none yet
	Oldest   int64   // the lowest position from which history can be read: below it a cursor has expired; 0: nothing has been deleted
	Resets   []Reset // stretches of positions that a failover or a restore has replaced, ascending; almost always empty
}

// Reset is a stretch of positions whose events may not have survived: a cursor strictly between After and Before has met events
// that are no longer part of history.
type Reset struct{ After, Before int64 }

// Change is what one batch did to a user's membership of one program. The batch has the positions After+1 to Through, and its
// changes stand before its events, so that the events lie behind all of them.
type Change struct {
	Program        string
	After, Through int64
	ID             int64 // of the last change's row
	First, Last    bool  // what the first and the last change made of it: true for member
	Lost           bool  // one of them took the membership away: none of the batch's events is the user's
}
