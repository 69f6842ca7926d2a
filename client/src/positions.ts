// Where each program is to be resumed, and which events have been seen.

import type { AnyEvent } from "./frames.js";

const remembered = 1000; // events known by id and timestamp, of all programs together

const later = (a: string, b: string) => BigInt(a) > BigInt(b);

/** positions holds the newest position by program; `"*"` is a checkpoint for all programs that aren't named. */
export const positions = (saved: Record<string, string> = {}) => {
  const at = new Map(Object.entries(saved));
  const seen = new Set<string>(); // "id timestamp", oldest first
  return {
    at,
    /** For `since`. */
    all: () => Object.fromEntries(at),
    knows: (program: string) => at.has(program) || at.has("*"),
    /**
     * Everything up to `position` has been received, of all programs or, with a filter, of those in it. Then it is noted for each: for
     * a program that joins the filter later it would say too much.
     */
    checkpoint(position: string, filter?: Iterable<string>) {
      if (filter) {
        at.delete("*");
        for (const p of filter) if (later(position, at.get(p) ?? "")) at.set(p, position);
      } else {
        for (const [p, own] of at) if (!later(own, position)) at.delete(p);
        at.set("*", position);
      }
    },
    /** Notes an event; false for a repeat. By position, and by id and timestamp together: ids can come again after a failover. */
    take({ programId, position, id, timestamp }: AnyEvent) {
      const own = at.get(programId);
      if (own && !later(position, own)) return false;
      at.set(programId, position);
      const key = `${id} ${timestamp}`;
      if (seen.has(key)) return false;
      seen.add(key);
      if (seen.size > remembered) seen.delete(seen.values().next().value as string);
      return true;
    },
    /** Whether one of the last events had this id. */
    saw: (id: string) => [...seen].some((key) => key.startsWith(`${id} `)),
  };
};
