// Package ws serves the programs' logs to browsers over WebSocket.
//
// A [Hub] is the http.Handler for /ws. It has a room for each program that a connected user is a member of, and a socket for each
// connection. A room is woken, reads its log forward into a bounded buffer, and wakes its sockets. A socket is nothing but a cursor in
// each of its rooms: woken, it reads forward from its cursors, from the buffer or, further back, from the log. Catching up and being
// live are the same code with an older or a newer cursor, so that live events can't overtake missed ones.
//
// Order: the log's, per program, the same for every client. Membership changes are entries of the same log: what a user may see is decided at
// the place of the change, whenever it is read. Nothing is promised across programs.
//
// Loss: none that isn't told. A wake-up that gets lost delays an event by at most [Config].WakeInterval; a read that is told too little
// (the log has lost its end and isn't repaired yet) leaves the cursors where they are. A client that can't be given everything
// is sent a gap.
//
// Duplicates: none on a connection; a cursor only moves forward.
//
// Blocking: nobody waits for a client. A socket whose client doesn't take data blocks in its own write until it is closed as a slow
// consumer, and holds one message meanwhile. Rooms wait for the log only. Reads below the buffers are made one at a time per room and a few at a
// time per process, so a storm of old cursors delays itself, not the live events of others.
package ws
