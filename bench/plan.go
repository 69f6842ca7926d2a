//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/outboxrelay/outboxrelay/auth"
)

// plan is what one run does.
type plan struct {
	name     string // for messages and profiles
	kind     kind
	programs int
	clients  []client
	batch    bool // clients take several events in one message

	writers  int
	rate     float64       // transactions a second of all writers; 0: flat out
	lag      time.Duration // writers wait while the oldest event that isn't everywhere is older; 0: they don't
	size     int           // of an event's data, bytes
	capacity int           // events per stream

	warm, measure time.Duration
	loops         int // reading threads
	dialing       int // clients that may be connecting at a time
}

// client is one connection: a user and the programs that it is a member of.
type client struct {
	user     string
	programs []int
}

// spread makes n clients of one program each, evenly.
func spread(n, programs int) []client {
	list := make([]client, n)
	for i := range list {
		list[i] = client{"u" + strconv.Itoa(i), []int{i % programs}}
	}
	return list
}

// observer is one client of all programs.
func observer(programs int) client {
	c := client{user: "observer"}
	for p := range programs {
		c.programs = append(c.programs, p)
	}
	return c
}

func programName(p int) string { return "p" + strconv.Itoa(p) }

// perProgram is how many streams a program has: one if each program has a writer of its own, else one for each writer.
func (p *plan) perProgram() int {
	if p.programs >= p.writers {
		return 1
	}
	return p.writers
}

// streams makes the streams of all programs, those of one program next to each other.
func (p *plan) streams() []*stream {
	n := p.programs * p.perProgram()
	all := make([]moment, n*p.capacity)
	list := make([]*stream, n)
	for i := range list {
		list[i] = &stream{id: i, program: programName(i / p.perProgram()), sent: all[i*p.capacity : (i+1)*p.capacity]}
	}
	return list
}

// streamsOf are the streams that a writer writes.
func (p *plan) streamsOf(writer int, streams []*stream) (list []*stream) {
	for i, s := range streams {
		if i%p.writers == writer {
			list = append(list, s)
		}
	}
	return list
}

// peer makes the connection of a client that has seen everything through the given position; empty: it starts live.
func (p *plan) peer(c client, address, since string, streams []*stream) (*peer, error) {
	per := p.perProgram()
	conn := &peer{name: c.user}
	for _, program := range c.programs {
		conn.programs = append(conn.programs, programName(program))
	}
	if len(c.programs) == 1 {
		conn.base = c.programs[0] * per
		conn.next = make([]int64, per)
		for i := range conn.next {
			conn.next[i] = streams[conn.base+i].next.Load()
		}
	} else {
		conn.next = slices.Repeat([]int64{-1}, len(streams))
		for _, program := range c.programs {
			for i := program * per; i < (program+1)*per; i++ {
				conn.next[i] = streams[i].next.Load()
			}
		}
	}
	path := "/ws"
	if p.kind == theFloor {
		path = "/?programs=" + strings.Join(conn.programs, ",")
	} else {
		token, err := auth.Mint([]byte(secret), c.user, time.Hour)
		if err != nil {
			return nil, err
		}
		hello, err := json.Marshal(struct {
			Type  string `json:"type"`
			Token string `json:"token"`
			Since string `json:"since,omitempty"`
			Batch bool   `json:"batch,omitempty"`
		}{"auth", token, since, p.batch})
		if err != nil {
			return nil, err
		}
		conn.hello = appendFrame(nil, opText, hello)
	}
	conn.request = fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", path, address)
	return conn, nil
}

func (p *plan) peers(address, since string, streams []*stream) (list []*peer, err error) {
	for _, c := range p.clients {
		conn, err := p.peer(c, address, since, streams)
		if err != nil {
			return nil, err
		}
		list = append(list, conn)
	}
	return list, nil
}
