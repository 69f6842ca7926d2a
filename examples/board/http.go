package board

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/jackc/pgx/v5"
)

// maxBody bounds a request's body.
const maxBody = 16 << 10

// call is one request to the API, inside its transaction.
type call[In any] struct {
	tx pgx.Tx
	by member
	id string // the {id} of the path, empty where there is none
	in In     // the decoded body
}

// transaction makes a handler of a change: sign-in, body, BEGIN, f, COMMIT. What f returns is the answer. f decides by its error
// whether there is a COMMIT: with errRollBack there is none, and the answer is sent all the same.
func transaction[In any](a *app, f func(context.Context, call[In]) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, err := a.sessions.user(r)
		if err != nil {
			a.fail(w, r, err)
			return
		}
		c := call[In]{id: r.PathValue("id")}
		if err := decode(w, r, &c.in); err != nil {
			a.fail(w, r, err)
			return
		}
		var answer any
		err = pgx.BeginFunc(r.Context(), a.pool, func(tx pgx.Tx) (err error) {
			c.tx = tx
			if c.by, err = readMember(r.Context(), tx, user); err != nil {
				return err
			}
			answer, err = f(r.Context(), c)
			return err
		})
		if err != nil && !errors.Is(err, errRollBack) {
			a.fail(w, r, err)
			return
		}
		a.answer(w, r, answer)
	})
}

// decode reads a JSON body; an empty one leaves in as it is.
func decode(w http.ResponseWriter, r *http.Request, in any) error {
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(in)
	if err != nil && !errors.Is(err, io.EOF) {
		return invalidError("the body must be a JSON object of at most 16 KiB: " + err.Error())
	}
	return nil
}

func (a *app) answer(w http.ResponseWriter, r *http.Request, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		a.log.DebugContext(r.Context(), "answer not written", "path", r.URL.Path, "error", err)
	}
}

// fail answers with err; the text of an error that isn't the caller's fault goes to the log only.
func (a *app) fail(w http.ResponseWriter, r *http.Request, err error) {
	status, text := statusOf(err), err.Error()
	switch {
	case status == http.StatusNotFound:
		text = errNotFound.Error()
	case status == http.StatusInternalServerError:
		text = "internal error"
		a.log.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": text})
}
