package ws

import (
	"bytes"
	"fmt"
	"testing"
)

// A socket that had looked at the buffer before an event was erased, and wrote only after, left its bytes for the sockets to come.
func TestAnErasedEventIsNotKeptReadyForOthers(t *testing.T) {
	t.Parallel()
	frames := func(data string) (list []Entry) {
		for n := range 3 {
			list = append(list, Entry{Position: int64(n + 1), Frame: fmt.Appendf(nil, `{"type":"event","id":"%d","data":%s}`, n, data)})
		}
		return list
	}
	for _, batch := range []bool{false, true} {
		r := &room{program: "p1"}
		r.add(frames(`"secret"`))
		early := r.after(0, batchCount, batchBytes)
		r.forget(0)
		if !bytes.Contains(r.bundle(early, batch), []byte("secret")) {
			t.Fatal("this test shows nothing")
		}
		if !r.lower(0, Page{Entries: frames("null"), Through: 3, Newest: 3}, true, r.forgot) {
			t.Fatal("the buffer isn't filled again")
		}
		if got := r.bundle(r.after(0, batchCount, batchBytes), batch); bytes.Contains(got, []byte("secret")) || !bytes.Contains(got, []byte("null")) {
			t.Errorf("batch %v: the next socket is sent %q", batch, got)
		}
	}
}
