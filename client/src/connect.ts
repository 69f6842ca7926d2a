// The relay: one connection, and the programs that are followed over it.

import type { Catalog } from "./catalog.js";
import { connection } from "./connection.js";
import type { Frame, Gap } from "./frames.js";
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
  const address = `${new URL(url, globalThis.location?.href)}`.replace(/^http/, "ws");
  const Socket = options.WebSocket ?? globalThis.WebSocket;
  if (!Socket) throw new TypeError("no WebSocket: set options.WebSocket");
  const env = environment(options);
  const cursor = positions(options.storage?.load());
  const filter = options.programs && new Set(options.programs);
  const programs = new Map<string, ReturnType<typeof program>>();
  const statuses = listeners<unknown>(env);
  const none: readonly string[] = [];
  let memberOf = none; // until the server has said
  let status: Status = { state: "connecting" };
  let asked: string[] | undefined; // the filter that the server has been told on this connection
  let closed = false;

  const setMemberOf = (next: readonly string[]) => {
    memberOf = next;
    statuses.emit(0);
  };
  const setStatus = (next: Status) => {
    status = next;
    if (next.state !== "live") asked = undefined;
    for (const p of programs.values()) p.relay(status); // a handler may have closed it meanwhile
    statuses.emit(0);
  };

  const frame = (f: Frame) => {
    const id = (f as Gap).programId; // those that name none have none
    const p = programs.get(id);
    switch (f.type) {
      case "event":
        if (cursor.take(f)) p?.event(f);
        break;
      case "gap":
        if (cursor.gap(f)) p?.gap(f);
        break;
      case "joined":
        cursor.at.set(id, f.position);
        setMemberOf([...memberOf, id]);
        p?.member(true, true);
        break;
      case "left":
        cursor.at.delete(id);
        p?.member(false);
        setMemberOf(memberOf.filter((other) => other !== id));
        break;
      case "ready":
        for (const [id, p] of programs) p.member(f.programs.includes(id), cursor.knows(id));
        setMemberOf(f.programs);
        break;
      case "live":
      case "position":
        if (f.position) cursor.checkpoint(f.position, asked);
    }
  };

  statuses.add(() => status.state === "closed" && wantsLogin(status.code) && options.onLogin?.(status));
  const line = connection(address, Socket, options, env, {
    ask: () => ({ since: filter ? cursor.of([...filter, "*"]) : cursor.since(), programs: (asked = filter && [...filter]) }),
    frame,
    flush: () => env.call(() => options.storage?.save(cursor.all()), 0),
    status: setStatus,
  });

  const wake = () => {
    if (!globalThis.document?.hidden) line.wake();
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
      return memberOf;
    },
    onStatus: (handler) => statuses.add(() => handler(status), 1),
    program(id, { state } = {}) {
      let p = programs.get(id);
      if (!p) {
        if (!id) throw new TypeError("no program id");
        p = program(id, env, cursor.saw);
        programs.set(id, p);
        p.relay(status);
        if (filter && !filter.has(id)) {
          filter.add(id);
          queueMicrotask(() => asked && line.start()); // the first one's start clears it
        } else if (memberOf !== none) p.member(memberOf.includes(id), true);
      }
      p.load(state);
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
