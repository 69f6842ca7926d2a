package relay

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// News is what a message on a program's channel tells: all entries of the program that lie behind After, up to the last of Entries. Without
// entries it is only a wake-up: there is something to read, up to After at least; 0 if unknown.
type News struct {
	After   int64
	Entries []Entry // ascending
}

var errNews = errors.New("message is no news")

// parseNews reads a message of the append script: the position of the predecessor, then position and length of each entry, a line break, and the
// entries themselves. A message without a line break is a position, and so a wake-up.
func parseNews(message string) (News, error) {
	head, bodies, ok := strings.Cut(message, "\n")
	if !ok {
		position, err := strconv.ParseInt(head, 10, 64)
		if err != nil || position < 0 {
			position = 0 // somebody else's: still worth a look
		}
		return News{After: position}, nil
	}
	fields := strings.Split(head, " ")
	after, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil || after < 0 || len(fields)%2 == 0 {
		return News{}, errNews
	}
	news := News{After: after, Entries: make([]Entry, 0, len(fields)/2)}
	for i := 1; i < len(fields); i += 2 {
		position, err := strconv.ParseInt(fields[i], 10, 64)
		length, err2 := strconv.Atoi(fields[i+1])
		if err != nil || err2 != nil || position <= after || length < 0 || length > len(bodies) {
			return News{}, errNews
		}
		entry, err := newEntry(position, []byte(bodies[:length]))
		if err != nil {
			return News{}, fmt.Errorf("read news: %w", err)
		}
		news.Entries = append(news.Entries, entry)
		after, bodies = position, bodies[length:]
	}
	return news, nil
}
