// What an application can see of a connection, and what a close code means.

/** The server, or a token callback that returned nothing, has ended the relay: it doesn't try again by itself. */
export interface Closed {
  readonly state: "closed";
  /** The close code (docs/PROTOCOL.md); 1000 after `close()`. */
  readonly code: number;
  /** The code of the server's error frame, such as `invalid_token`; `closed` after `close()`; else empty. */
  readonly reason: string;
}

/** The state of the connection. */
export type Status =
  /** A token is fetched, the socket opens, or what was missed is being sent. */
  | { readonly state: "connecting" }
  /** Everything that was missed has been handed out; from here on events are live. */
  | { readonly state: "live"; readonly userId: string; readonly role: string }
  /** The connection is lost; `retryAt` is the time of the next try in ms since 1970, `code` the last close code (1006: none came). */
  | { readonly state: "waiting"; readonly retryAt: number; readonly code: number }
  | Closed;

/** The state of one program: that of the connection, and once that is live one of its own. */
export type ProgramStatus =
  | Status
  /** Not a program of this user: no such program, or no member. The server doesn't tell which. It turns live with a membership. */
  | { readonly state: "absent" }
  /** `state` is running; events wait for it. */
  | { readonly state: "loading" };

/** isFinal reports whether a close code says not to try again. */
export const isFinal = (code: number) => /^4[5-9]|100[2379]/.test(code as never);

/** wantsLogin reports whether a new login would help. */
export const wantsLogin = (code: number) => code === 4500 || code === 4501;
