package board

import (
	"context"
	"net/http"

	"github.com/jackc/pgx/v5"
)

// Memberships are rows of relay.program_members. Changing one is all that is needed: its trigger puts the change into the program's log,
// and the room closes or opens at that place.

// programs answers with the programs that the caller is, or was, a member of.
func (a *app) programs(w http.ResponseWriter, r *http.Request) {
	user, err := a.sessions.user(r)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	rows, err := a.pool.Query(r.Context(), `
		SELECT p.id, p.name, m.is_active AS member FROM board.programs p
		JOIN relay.program_members m ON m.program_id = p.id AND m.user_id = $1 ORDER BY p.id LIMIT 50`, user)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	type program struct {
		ID     string `json:"id"`
		Name   string `json:"name"`
		Member bool   `json:"member"`
	}
	programs, err := pgx.CollectRows(rows, pgx.RowToStructByName[program])
	if err != nil {
		a.fail(w, r, err)
		return
	}
	a.answer(w, r, programs)
}

// leave ends the caller's membership in the program c.id.
func leave(ctx context.Context, c call[struct{}]) (any, error) { return setMembership(ctx, c, false) }

// rejoin renews a membership that the caller once had. A demo's liberty: elsewhere somebody else decides that.
func rejoin(ctx context.Context, c call[struct{}]) (any, error) { return setMembership(ctx, c, true) }

func setMembership(ctx context.Context, c call[struct{}], active bool) (any, error) {
	tag, err := c.tx.Exec(ctx, "UPDATE relay.program_members SET is_active = $3 WHERE program_id = $1 AND user_id = $2", c.id, c.by.ID, active)
	if err != nil {
		return nil, err
	}
	if tag.RowsAffected() == 0 {
		return nil, errNotFound
	}
	return map[string]any{"program": c.id, "member": active}, nil
}
