package board

import (
	"encoding/json"
	"net/http"
)

// stateQuery is one program as JSON, in one statement and thus of one moment; no row for those who aren't members.
const stateQuery = `
SELECT json_build_object(
	'program', json_build_object('id', p.id, 'name', p.name),
	'members', (SELECT coalesce(json_agg(json_build_object('id', u.id, 'name', concat_ws(' ', u.first_name, u.last_name)) ORDER BY u.id), '[]')
		FROM relay.program_members m JOIN relay.users u ON u.id = m.user_id WHERE m.program_id = p.id AND m.is_active AND u.is_active),
	'requests', (SELECT coalesce(json_agg(r.request), '[]') FROM (
		SELECT json_build_object('id', r.id, 'title', r.title, 'status', r.status,
			'assignee', (SELECT json_build_object('id', u.id, 'name', concat_ws(' ', u.first_name, u.last_name)) FROM relay.users u WHERE u.id = r.assignee_id),
			'comments', (SELECT coalesce(json_agg(json_build_object('id', c.id::text, 'body', c.body,
				'author', json_build_object('id', c.author_id, 'name', concat_ws(' ', u.first_name, u.last_name))) ORDER BY c.id), '[]')
				FROM board.comments c LEFT JOIN relay.users u ON u.id = c.author_id WHERE c.request_id = r.id),
			'attachments', (SELECT coalesce(json_agg(json_build_object('id', t.id::text, 'name', t.name, 'size', t.size) ORDER BY t.id), '[]')
				FROM board.attachments t WHERE t.request_id = r.id)) AS request
		FROM board.requests r WHERE r.program_id = p.id ORDER BY r.moved_at DESC, r.id DESC LIMIT 500) r))
FROM board.programs p
JOIN relay.program_members me ON me.program_id = p.id AND me.user_id = $2 AND me.is_active
WHERE p.id = $1`

// state answers with the program of the URL parameter: its name, its members and its 500 requests that were moved last, with all that belongs to
// them. The page's client reads it when the program's events begin, so that whatever it doesn't contain yet arrives as an event.
func (a *app) state(w http.ResponseWriter, r *http.Request) {
	user, err := a.sessions.user(r)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	var state json.RawMessage
	if err := a.pool.QueryRow(r.Context(), stateQuery, r.URL.Query().Get("program"), user).Scan(&state); err != nil {
		a.fail(w, r, err)
		return
	}
	a.answer(w, r, state)
}
