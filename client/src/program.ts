// One program: its handlers, its state, and who waits for an event.

import { backoff } from "./backoff.js";
import type { Catalog } from "./catalog.js";
import type { AnyEvent, Gap, NameOf, RelayEvent } from "./frames.js";
import { listeners, type Unsubscribe } from "./listeners.js";
import { alarm, type Env } from "./options.js";
import type { ProgramStatus, Status } from "./status.js";
import { stream } from "./stream.js";

const maxHeld = 10_000; // events that wait for `state`

/** What `relay.program` takes. */
export interface ProgramOptions {
  /**
   * Loads the application's state: when the program's events begin, and again after a gap. Events that come meanwhile are handed out
   * after it. Calls never overlap; one that throws is repeated after a while.
   */
  state?(): unknown;
}

/** The events of one program: in order, each once, caught up after a break. */
export interface Program<C = Catalog> extends AsyncIterable<RelayEvent<C>> {
  readonly id: string;
  readonly status: ProgramStatus;
  /** Calls `handler` for each event of that name, `"*"`: of any name. What it throws goes to `onError`. */
  on<K extends NameOf<C>>(event: K, handler: (event: RelayEvent<C, K>) => unknown): Unsubscribe;
  on(event: "*", handler: (event: RelayEvent<C>) => unknown): Unsubscribe;
  /** Calls `handler` when events may be missing: load your state anew. With `state` that is done already. */
  onGap(handler: (gap: Gap) => unknown): Unsubscribe;
  /** Calls `handler` now and at each change. */
  onStatus(handler: (status: ProgramStatus) => unknown): Unsubscribe;
  /**
   * Resolves when the event with this id has been handed to the handlers, or a `state` has been loaded that contains it: call it with the
   * id that the write returned. Rejects after `timeout` ms (10,000), or when the relay closes.
   */
  waitFor(eventId: string | number | bigint, options?: { timeout?: number }): Promise<void>;
  /**
   * All events from now on. At most 1,000 wait for the loop; if it falls behind further, it gets those and then an error. It ends with
   * `close()`, and with an error when the server closes for good.
   */
  [Symbol.asyncIterator](): AsyncGenerator<RelayEvent<C>, void, void>;
}

const absent: ProgramStatus = { state: "absent" };
const loading: ProgramStatus = { state: "loading" };

/** program returns the application's side of a program and the relay's. `saw` tells whether an id was among the last events. */
export const program = (id: string, env: Env, saw: (id: string) => boolean) => {
  const events = listeners<AnyEvent>(env);
  const gaps = listeners<Gap>(env);
  const statuses = listeners<unknown>(env);
  const loaded = listeners<number>(env); // which of the loads
  let state: ProgramOptions["state"];
  let relay: Status = { state: "connecting" };
  let status: ProgramStatus = relay;
  let member: boolean | undefined; // undefined: the server hasn't said
  let held: AnyEvent[] | undefined; // until state has been loaded
  let busy = false; // state is running
  let loads = 0;
  let tries = 0; // of state that have failed
  let stale = false; // a gap came while it ran

  const update = () => {
    const next = relay.state !== "live" ? relay : held ? loading : member ? relay : member === false ? absent : status;
    if (next === status) return;
    status = next;
    statuses.emit(0); // each handler reads it: an earlier one may have changed it
  };
  const onClose = (end: (error: Error, quiet: boolean) => void) =>
    statuses.add(
      () => status.state === "closed" && end(new Error(`relay closed: ${status.code} ${status.reason}`), status.code === 1000),
      1,
    );
  const run = async () => {
    const mine = ++loads;
    retry();
    busy = true;
    stale = false;
    tries++;
    try {
      await state?.();
      tries = 0;
    } catch (error) {
      env.report(error);
    }
    busy = false;
    if (!held || relay.state === "closed") return;
    if (stale) return run();
    if (tries) return retry(backoff(env.random, tries));
    const ready = held;
    held = undefined;
    for (const e of ready) if (status.state !== "closed") events.emit(e);
    loaded.emit(mine);
    update();
  };
  const retry = alarm(env, run);
  // What is held lies before a gap: the state that is loaded now has it.
  const load = () => {
    if (!state) return;
    held = [];
    stale = true;
    if (!busy) run();
  };
  const lack = (gap: Gap) => {
    load();
    gaps.emit(gap);
    update();
  };

  const handle: Program<any> = {
    id,
    get status() {
      return status;
    },
    on: (name: string, handler: (event: any) => unknown) => events.add((e) => (name === "*" || name === e.event) && handler(e)),
    onGap: (handler) => gaps.add((gap) => handler(gap)),
    onStatus: (handler) => statuses.add(() => handler(status), 1),
    waitFor: (eventId, { timeout = 10_000 } = {}) => {
      const wanted = `${eventId}`;
      const before = loads;
      const offs: (() => void)[] = [];
      return new Promise<void>((resolve, reject) => {
        if (!held && saw(wanted)) return resolve();
        const timer = alarm(env, () => reject(new Error(`event ${wanted} hasn't come in ${timeout} ms`)));
        timer(timeout);
        offs.push(
          timer,
          events.add((e) => e.id === wanted && resolve()),
          loaded.add((load) => (load > before || saw(wanted)) && resolve()),
          onClose(reject), // at once on a closed relay: what is taken off is complete only after it
        );
      }).finally(() => offs.forEach((off) => off()));
    },
    [Symbol.asyncIterator]: () =>
      stream<any>((take, end) => {
        const offs = [events.add(take), onClose(end)];
        return () => offs.forEach((off) => off());
      }),
  };

  return {
    handle,
    /** A second one replaces the first, and is run at once. */
    load(next: ProgramOptions["state"]) {
      if (!next || next === state) return;
      state = next;
      if (member) load();
      update();
    },
    event(event: AnyEvent) {
      if (!held) events.emit(event);
      else if (held.push(event) > maxHeld) load();
    },
    gap: lack,
    /** Whether the user is a member; `known`: the server was told from where to go on. */
    member(now: boolean, known?: boolean) {
      const before = member;
      member = now;
      if (!now) {
        held = undefined;
        retry();
      } else if (before === undefined) load();
      else if (!before || !known) lack({ type: "gap", programId: id, reason: before ? "unknown_position" : "membership" });
      else if (held && !busy) run();
      update();
    },
    relay(next: Status) {
      relay = next;
      if (next.state === "closed") retry();
      update();
    },
  };
};
