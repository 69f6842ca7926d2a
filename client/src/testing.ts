// A relay inside the test process, for unit tests of a front end: it speaks the protocol of docs/PROTOCOL.md to the real client.

import type { Catalog } from "./catalog.js";
import { FakeSocket } from "./fakesocket.js";
import type { Gap, NameOf, RelayEvent } from "./frames.js";
import type { WebSocketClass } from "./options.js";

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

/** fakeRelay returns a relay with one user and no events. */
export function fakeRelay<C extends object = Catalog>(options: FakeOptions = {}): FakeRelay<C> {
  return new Fake<C>(options);
}

class Fake<C> implements FakeRelay<C> {
  readonly WebSocket: WebSocketClass;
  readonly received: Record<string, unknown>[] = [];
  readonly #options;
  readonly #programs: Set<string>;
  readonly #open = new Set<FakeSocket>();
  readonly #members = new Map<FakeSocket, string[] | undefined>(); // the authenticated ones, with their filter
  readonly #log: RelayEvent<any, any>[] = [];
  #waiting: (() => void)[] = [];
  #position: bigint;
  #oldest: bigint; // what lies before is forgotten
  #lastId = 0;
  #away = false;
  #silent = false;

  constructor(options: FakeOptions) {
    this.#options = { userId: "u1", role: "member", tokenLife: 3_600_000, maxCatchup: 50, now: Date.now, ...options };
    this.#programs = new Set(options.programs);
    this.#position = this.#oldest = BigInt(this.#options.now()) * 1000n;
    const host = {
      accept: (socket: FakeSocket) => !this.#away && !!this.#open.add(socket),
      receive: (socket: FakeSocket, frame: Record<string, unknown>) => this.#receive(socket, frame),
      gone: (socket: FakeSocket) => {
        this.#open.delete(socket);
        this.#members.delete(socket);
      },
    };
    this.WebSocket = class extends FakeSocket {
      constructor(_url: string) {
        super(host);
      }
    };
  }

  get connections() {
    return this.#members.size;
  }

  emit<K extends NameOf<C>>(program: string, event: K, data: C[K], extra?: Extra) {
    const timestamp = new Date(this.#options.now()).toISOString();
    const frame = { type: "event", id: `${++this.#lastId}`, position: this.#next(), event, programId: program, data, timestamp, ...extra };
    this.#log.push(frame as RelayEvent<any, any>);
    if (this.#programs.has(program)) this.#tell(program, frame);
    return frame as never;
  }

  gap(program: string, reason: Gap["reason"] = "limit") {
    this.#tell(program, { type: "gap", programId: program, reason, before: this.#next() });
  }

  forget() {
    this.#log.length = 0;
    this.#oldest = ++this.#position;
  }

  join(program: string) {
    if (this.#programs.has(program)) return;
    this.#programs.add(program);
    this.#tell(program, { type: "joined", programId: program, position: this.#next() });
  }

  kick(program: string) {
    if (this.#programs.delete(program)) this.#tell(program, { type: "left", programId: program, position: this.#next() });
  }

  drop(code = 1006, error?: string) {
    for (const socket of [...this.#open]) {
      if (error) this.#send(socket, { type: "error", code: error, message: error });
      socket.shut(code);
    }
  }

  expire() {
    this.drop(4001, "token_expired");
  }

  offline({ silent = false } = {}) {
    this.#away = true;
    this.#silent = silent;
    if (!silent) this.drop();
  }

  online() {
    if (this.#silent) this.drop(); // a network that comes back finds a connection that has lost something
    this.#away = this.#silent = false;
  }

  connected() {
    return new Promise<void>((resolve) => (this.#members.size > 0 ? resolve() : this.#waiting.push(resolve)));
  }

  #next() {
    return `${++this.#position}`;
  }

  #send(socket: FakeSocket, ...frames: object[]) {
    if (!this.#silent) socket.tell(...frames);
  }

  #tell(program: string, frame: object) {
    for (const [socket, filter] of [...this.#members]) if (filter?.includes(program) ?? true) this.#send(socket, frame);
  }

  #receive(socket: FakeSocket, frame: Record<string, unknown>) {
    if (this.#silent) return;
    this.received.push(frame);
    if (frame.type === "ping") this.#send(socket, { type: "pong" });
    else if (!this.#members.has(socket)) this.#welcome(socket, frame); // else it is a renewal
  }

  /** Answers the first frame: ready, what was missed, live. */
  #welcome(socket: FakeSocket, frame: Record<string, unknown>) {
    const { userId, role, tokenLife, now } = this.#options;
    const filter = frame.programs as string[] | undefined;
    const since = (frame.since ?? {}) as Record<string, string>;
    const programs = [...this.#programs].filter((p) => filter?.includes(p) ?? true);
    const ready = { type: "ready", userId, role, programs, tokenExpiresAt: new Date(now() + tokenLife).toISOString() };
    const missed = programs.flatMap((p) => this.#missed(p, since[p] ?? since["*"]));
    this.#members.set(socket, filter);
    this.#send(socket, ready, ...missed, { type: "live", position: `${this.#position}` });
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  /** What a client that has come as far as `after` gets: at most one gap, then events. */
  #missed(program: string, after: string | undefined): object[] {
    if (after === undefined) return [];
    const missed = this.#log.filter((e) => e.programId === program && BigInt(e.position) > BigInt(after));
    const sent = missed.slice(-this.#options.maxCatchup);
    const before = sent[0]?.position ?? `${this.#position + 1n}`;
    const gap = { type: "gap", programId: program, before };
    if (BigInt(after) > this.#position) return [{ ...gap, reason: "unknown_position" }];
    if (BigInt(after) < this.#oldest) return [{ ...gap, after, reason: "expired" }, ...sent];
    return sent.length < missed.length ? [{ ...gap, after, reason: "limit" }, ...sent] : sent;
  }
}
