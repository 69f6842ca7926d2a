// A React hook.

import { useMemo, useSyncExternalStore } from "react";
import type { Catalog } from "./catalog.js";
import type { Relay } from "./connect.js";
import type { RelayEvent } from "./frames.js";
import type { Program } from "./program.js";
import type { ProgramStatus } from "./status.js";

const most = 1000; // events kept

/** What `useProgram` returns. It is a new object, with a new array, only when something has changed. */
export interface Snapshot<C> {
  /** The newest events since the first component that shows the program appeared, oldest first; at most 1,000. */
  readonly events: readonly RelayEvent<C>[];
  readonly status: ProgramStatus;
}

interface Store<C> {
  subscribe(changed: () => void): () => void;
  snapshot(): Snapshot<C>;
}

const nothing: Snapshot<any> = { events: [], status: { state: "connecting" } };
const stores = new WeakMap<Relay<any>, Map<string, Store<any>>>();

/**
 * useProgram shows a component the events and the status of a program. All components that show the same program share one list; it
 * begins anew when none is left. It renders again once for a change, also in StrictMode, and on the server gives an empty list.
 */
export function useProgram<C extends object = Catalog>(relay: Relay<C>, id: string): Snapshot<C> {
  const store: Store<C> = useMemo(() => storeOf(relay, id), [relay, id]);
  return useSyncExternalStore(store.subscribe, store.snapshot, () => nothing);
}

/** storeOf returns the one store of a program, so that a component that React builds twice finds the same. */
function storeOf<C>(relay: Relay<C>, id: string): Store<C> {
  let known = stores.get(relay);
  if (!known) stores.set(relay, (known = new Map()));
  let store = known.get(id);
  if (!store) known.set(id, (store = makeStore(relay.program(id))));
  return store;
}

function makeStore<C>(program: Program<C>): Store<C> {
  const watching = new Set<() => void>();
  let now: Snapshot<C> = { events: [], status: program.status };
  let stop = () => {};
  const set = (next: Snapshot<C>) => {
    now = next;
    for (const changed of [...watching]) changed();
  };
  const start = () => {
    now = { events: [], status: program.status };
    const offs = [
      program.on("*", (event) => set({ events: [...now.events, event].slice(-most), status: now.status })),
      program.onStatus((status) => status !== now.status && set({ events: now.events, status })),
    ];
    return () => {
      for (const off of offs) off();
    };
  };
  return {
    subscribe(changed) {
      const own = () => changed();
      if (watching.size === 0) stop = start();
      watching.add(own);
      return () => {
        watching.delete(own);
        if (watching.size > 0) return;
        stop();
        now = { events: [], status: program.status };
      };
    },
    // Before the first subscription nothing keeps the status up to date.
    snapshot: () => (watching.size > 0 || now.status === program.status ? now : (now = { events: [], status: program.status })),
  };
}
