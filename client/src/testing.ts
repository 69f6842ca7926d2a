// A relay inside the test process, for unit tests of a front end: it speaks the protocol of docs/PROTOCOL.md to the real client.

import type { Catalog } from "./catalog.js";
import type { Gap, NameOf, RelayEvent } from "./frames.js";
import type { WebSocketClass, WebSocketLike } from "./options.js";

/** What `fakeRelay` takes. */
export interface FakeOptions {
  /** Who the tokens belong to, whatever they say. Default: `u1`, `member`. */
  userId?: string;
  role?: string;
  /** The user's programs. */
  programs?: Iterable<string>;
  /** How long a token counts, in ms. Default: an hour. It is only told, use `expire` to make it true. */
  tokenLife?: number;
  /** Most events of one catch-up, as MAX_CATCHUP_EVENTS. Default: 50. */
  maxCatchup?: number;
  /** Default: Date.now. */
  now?(): number;
}

/** What an event may have beside its data. */
export type Extra = Partial<Pick<RelayEvent, "id" | "position" | "requestId" | "performedBy" | "timestamp">>;

/** A fake relay. What it does reaches the client's handlers before the call returns. */
export interface FakeRelay<C = Catalog> {
  /** For `connect("ws://fake/ws", { WebSocket: fake.WebSocket, … })`. Any number of clients may connect. */
  readonly WebSocket: WebSocketClass;
  /** The frames that clients have sent, oldest first. */
  readonly received: readonly Record<string, unknown>[];
  /** The number of connections that have been accepted and are open. */
  readonly connections: number;
  /** Commits an event: it goes to who is connected, and to who comes later and asks for it. */
  emit<K extends NameOf<C>>(program: string, event: K, data: C[K], extra?: Extra): RelayEvent<C, K>;
  /** Tells connected clients that events may be missing. */
  gap(program: string, reason?: Gap["reason"]): void;
  /** Forgets all events so far: who comes back and asks for older ones is told of a gap. */
  forget(): void;
  /** Makes the user a member, and no longer one. */
  join(program: string): void;
  kick(program: string): void;
  /** Closes all connections; 1006 is a lost network. With a `code` of the error frame that comes before. */
  drop(code?: number, error?: string): void;
  /** The tokens have expired: 4001. */
  expire(): void;
  /** Until `online()`, connections are refused and those that are open are lost, or with `silent` say nothing more. */
  offline(how?: { silent?: boolean }): void;
  online(): void;
  /** Resolves when a client has connected and been told that it is live; at once if one is. */
  connected(): Promise<void>;
}

interface Connection {
  socket: WebSocketLike;
  live: boolean;
  send(...frames: object[]): void;
  close(code: number): void;
}

/** fakeRelay returns a relay with one user and no events. */
export function fakeRelay<C extends object = Catalog>(options: FakeOptions = {}): FakeRelay<C> {
  const { userId = "u1", role = "member", tokenLife = 3_600_000, maxCatchup = 50, now = Date.now } = options;
  const programs = new Set(options.programs);
  const received: Record<string, unknown>[] = [];
  const open = new Set<Connection>();
  const waiting: (() => void)[] = [];
  const log: RelayEvent<any, any>[] = [];
  let position = BigInt(now()) * 1000n;
  let oldest = position; // what lies before is forgotten
  let lastId = 0;
  let away = false;
  let silent = false;

  const filters = new Map<Connection, string[] | undefined>();
  const next = () => `${++position}`;
  const seenBy = (c: Connection, program: string) => c.live && (filters.get(c)?.includes(program) ?? true);
  const tell = (program: string, frame: object) => {
    for (const c of [...open]) if (seenBy(c, program)) c.send(frame);
  };

  const authenticate = (c: Connection, frame: Record<string, unknown>) => {
    if (c.live) return; // a renewal
    const filter = frame.programs as string[] | undefined;
    const since = (typeof frame.since === "string" ? { "*": frame.since } : (frame.since ?? {})) as Record<string, string>;
    const mine = [...programs].filter((p) => filter?.includes(p) ?? true);
    filters.set(c, filter);
    c.live = true;
    const out: object[] = [{ type: "ready", userId, role, programs: mine, tokenExpiresAt: new Date(now() + tokenLife).toISOString() }];
    for (const p of mine) {
      const after = since[p] ?? since["*"];
      if (after === undefined) continue;
      const missed = log.filter((e) => e.programId === p && BigInt(e.position) > BigInt(after));
      const sent = missed.slice(-maxCatchup);
      const reason =
        BigInt(after) > position ? "unknown_position" : BigInt(after) < oldest ? "expired" : sent.length < missed.length ? "limit" : "";
      const before = sent[0]?.position ?? `${position + 1n}`;
      if (reason) out.push({ type: "gap", programId: p, reason, before, ...(reason === "unknown_position" ? {} : { after }) });
      out.push(...sent);
    }
    c.send(...out, { type: "live", position: `${position}` });
    for (const resolve of waiting.splice(0)) resolve();
  };

  const accept = (socket: WebSocketLike): Connection => {
    let closed = false;
    const c: Connection = {
      socket,
      live: false,
      send(...frames) {
        if (!closed && !silent) socket.onmessage?.({ data: JSON.stringify(frames.length === 1 ? frames[0] : frames) });
      },
      close(code) {
        if (closed) return;
        closed = true;
        open.delete(c);
        filters.delete(c);
        socket.onclose?.({ code, reason: "" });
      },
    };
    open.add(c);
    return c;
  };

  class FakeWebSocket implements WebSocketLike {
    onopen: ((event: any) => void) | null = null;
    onmessage: ((event: any) => void) | null = null;
    onclose: ((event: any) => void) | null = null;
    onerror: ((event: any) => void) | null = null;
    #connection: Connection | undefined;
    #gone = false;
    constructor(_url: string) {
      queueMicrotask(() => {
        if (this.#gone) return;
        if (away) {
          this.onerror?.({});
          this.onclose?.({ code: 1006, reason: "" });
          return;
        }
        this.#connection = accept(this);
        this.onopen?.({});
      });
    }
    send(data: string) {
      const c = this.#connection;
      if (!c || silent) return;
      const frame: Record<string, unknown> = JSON.parse(data);
      received.push(frame);
      queueMicrotask(() => {
        if (frame.type === "ping") c.send({ type: "pong" });
        else authenticate(c, frame);
      });
    }
    close() {
      this.#gone = true;
      this.#connection?.close(1000);
    }
  }

  const drop = (code = 1006, error?: string) => {
    for (const c of [...open]) {
      if (error) c.send({ type: "error", code: error, message: error });
      c.close(code);
    }
  };

  return {
    WebSocket: FakeWebSocket,
    received,
    get connections() {
      return [...open].filter((c) => c.live).length;
    },
    emit(program, event, data, extra) {
      const frame = {
        type: "event",
        id: `${++lastId}`,
        position: next(),
        event,
        programId: program,
        data,
        timestamp: new Date(now()).toISOString(),
        ...extra,
      } as const;
      log.push(frame);
      if (programs.has(program)) tell(program, frame);
      return frame as never;
    },
    gap: (program, reason = "limit") => tell(program, { type: "gap", programId: program, reason, before: next() }),
    forget() {
      log.length = 0;
      oldest = ++position;
    },
    join(program) {
      if (programs.has(program)) return;
      programs.add(program);
      tell(program, { type: "joined", programId: program, position: next() });
    },
    kick(program) {
      if (programs.delete(program)) tell(program, { type: "left", programId: program, position: next() });
    },
    drop,
    expire: () => drop(4001, "token_expired"),
    offline(how = {}) {
      away = true;
      if (how.silent) silent = true;
      else drop();
    },
    online() {
      away = false;
      if (silent) {
        silent = false;
        drop();
      }
    },
    connected: () => new Promise((resolve) => ([...open].some((c) => c.live) ? resolve() : waiting.push(resolve))),
  };
}
