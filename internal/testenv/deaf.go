package testenv

import "encoding/binary"

// Deafen drops every NotificationResponse that PostgreSQL sends, and nothing else: the sessions behind the proxy live, and LISTEN is deaf. It concerns
// connections that were made since the first call; false ends it. The connections must be in the clear and ask for nothing else (sslmode=disable).
func (p *TCPProxy) Deafen(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.postgres, p.deaf = true, on
}

// messages cuts what a PostgreSQL server sends into its messages: a byte that names the type, four that hold the length, themselves included.
type messages struct{ rest []byte }

// without takes a piece of the stream and returns the whole messages that are there now, but for those of type drop (0: none).
func (m *messages) without(data []byte, drop byte) (kept []byte) {
	m.rest = append(m.rest, data...)
	for len(m.rest) >= 5 {
		size := 1 + int(binary.BigEndian.Uint32(m.rest[1:5]))
		if len(m.rest) < size {
			break
		}
		if m.rest[0] != drop {
			kept = append(kept, m.rest[:size]...)
		}
		m.rest = m.rest[size:]
	}
	return kept
}

// filter returns what filters the server's side of a new connection, nil if nothing does.
func (p *TCPProxy) filter() func([]byte) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.postgres {
		return nil
	}
	var m messages
	return func(data []byte) []byte {
		p.mu.Lock()
		deaf := p.deaf
		p.mu.Unlock()
		if deaf {
			return m.without(data, 'A')
		}
		return m.without(data, 0)
	}
}
