// The relay: one connection, and the programs that are followed over it.

import type { Catalog } from "./catalog.js";
import { connection } from "./connection.js";
import type { Frame } from "./frames.js";
import { listeners, type Unsubscribe } from "./listeners.js";
import { environment, type Options } from "./options.js";
import { positions } from "./positions.js";
import { type Program, type ProgramOptions, program } from "./program.js";
import { type Status, wantsLogin } from "./status.js";

/** A connection that heals itself, for one user. */
export interface Relay<C = Catalog> {
  readonly status: Status;
  /** The programs that the user is a member of, as far as known: a new array at each change, empty before the first connection. */
  readonly programs: readonly string[];
  /** Calls `handler` now, at each change of the status, and when programs are gained or lost. */
  onStatus(handler: (status: Status) => unknown): Unsubscribe;
  /** The program with this id: the same object at each call. */
  program(id: string, options?: ProgramOptions): Program<C>;
  /** Try now: instead of waiting, or after the server has closed for good and the user has logged in again. */
  reconnect(): void;
  /** Ends it for good: no timer, listener or socket is left. */
  close(): void;
}

/** connect connects to `/ws` of an outbox-relay server (`wss://…`, or `https://…`; relative in a browser) and stays connected until `close()`. */
export function connect<C extends object = Catalog>(url: string | URL, options: Options): Relay<C> {
  const address = new URL(url, globalThis.location?.href);
  address.protocol = address.protocol.replace("http", "ws");
  if (!(options.WebSocket ?? globalThis.WebSocket)) throw new TypeError("there is no WebSocket here: pass one as options.WebSocket, such as that of the package ws");
  const env = environment(options);
  const cursor = positions(options.storage?.load());
  const filter = options.programs && new Set(options.programs);
  const programs = new Map<string, ReturnType<typeof program>>();
  const statuses = listeners<Status>(env.report);
  let member: readonly string[] = [];
  let status: Status = { state: "connecting" };
  let asked: string[] | undefined; // the filter that the server has been told on this connection
  let user: { userId: string; role: string } | undefined; // undefined: the server hasn't said who one is
  let closed = false;

  const members = (next: readonly string[]) => {
    member = next;
    statuses.emit(status);
  };
  const setStatus = (next: Status) => {
    status = next;
    if (next.state !== "live") asked = undefined;
    for (const p of programs.values()) p.relay(next);
    statuses.emit(next);
  };

  const frame = (f: Frame) => {
    const p = "programId" in f ? programs.get(f.programId) : undefined;
    switch (f.type) {
      case "event":
        if (cursor.take(f)) p?.event(f);
        break;
      case "gap":
        cursor.set(f.programId, String(BigInt(f.before) - 1n));
        p?.gap(f);
        break;
      case "joined":
        cursor.set(f.programId, f.position);
        members([...member, f.programId]);
        programs.get(f.programId)?.membership(true, true);
        break;
      case "left":
        cursor.forget(f.programId);
        p?.membership(false, true);
        members(member.filter((id) => id !== f.programId));
        break;
      case "ready":
        user = f;
        for (const [id, p] of programs) p.membership(f.programs.includes(id), cursor.knows(id));
        members(f.programs);
        break;
      case "live":
        if (user) setStatus({ state: "live", userId: user.userId, role: user.role });
    }
    if ((f.type === "live" || f.type === "position") && f.position) cursor.checkpoint(f.position, asked);
  };

  statuses.add((s) => s.state === "closed" && wantsLogin(s.code) && options.onLogin?.(s));
  const line = connection(address.href, options, env, {
    ask: () => ({ since: cursor.all(), programs: (asked = filter && [...filter]) }),
    frame,
    flush() {
      try {
        options.storage?.save(cursor.all());
      } catch (error) {
        env.report(error);
      }
    },
    status: setStatus,
  });

  const wake = () => {
    if (globalThis.document?.visibilityState !== "hidden") line.wake();
  };
  const outside = (change: "addEventListener" | "removeEventListener") => {
    globalThis[change]?.("online", wake); // Node has neither
    globalThis.document?.[change]("visibilitychange", wake);
  };
  outside("addEventListener");
  line.start();

  return {
    get status() {
      return status;
    },
    get programs() {
      return member;
    },
    onStatus: (handler) => statuses.add(handler, status),
    program(id, { state } = {}) {
      let p = programs.get(id);
      if (!p) {
        if (!/^[A-Za-z0-9][\w.:-]{0,127}$/.test(id)) throw new TypeError(`program id ${JSON.stringify(id)}: 1 to 128 of A-Z a-z 0-9 . _ : -`);
        p = program(id, env, cursor.saw);
        programs.set(id, p);
        p.load(state);
        p.relay(status);
        if (filter && !filter.has(id)) {
          filter.add(id);
          queueMicrotask(() => asked && !asked.includes(id) && line.start());
        } else if (user) p.membership(member.includes(id), true);
      } else p.load(state);
      return p.handle;
    },
    reconnect() {
      if (!closed) line.start();
    },
    close() {
      if (closed) return;
      closed = true;
      outside("removeEventListener");
      line.end(1000, "closed");
    },
  };
}
