// Where each program is to be resumed, and which events have been seen.

import type { AnyEvent, Gap } from "./frames.js";

const maxSince = 32 << 10; // bytes of JSON, all ASCII: the server takes frames of 64 KiB, and the token has to fit too
const remembered = 1000; // events known by id and timestamp, of all programs together

const later = (a: string, b: string) => BigInt(a) > BigInt(b);

/** positions holds the newest position by program; `"*"` is a checkpoint for all programs that aren't named. */
export const positions = (saved: Record<string, string> = {}) => {
  const at = new Map(Object.entries(saved));
  const seen = new Map<string, { timestamp: string; in: string }>(); // by id, oldest first; in: the program, "" in a history that is gone
  const own = (program: string) => at.get(program) ?? at.get("*") ?? "";
  return {
    at,
    /** For storage. */
    all: () => Object.fromEntries(at),
    /** For `since` with a filter: what is stored may name any number of other programs. What has no position isn't sent. */
    of: (programs: string[]) => Object.fromEntries(programs.map((p) => [p, at.get(p)])),
    /**
     * For `since` without one. Of more than fits only the newest are named, and `"*"` is the smallest of all: the others are sent again
     * what `at` tells to be a repeat. The newest, because of those the server must know whether a failover has replaced them.
     */
    since() {
      const named = [...at].sort(([, a], [, b]) => (later(b, a) ? 1 : -1));
      const smallest = named.at(-1)?.[1];
      let since = Object.fromEntries(at);
      while (named.length && JSON.stringify(since).length > maxSince) {
        named.length >>= 1;
        since = { ...Object.fromEntries(named), "*": smallest as string };
      }
      return since;
    },
    knows: (program: string) => own(program) !== "",
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
    /** Notes a gap; false for one in what has been received: `since` can have been smaller than the program's own position. */
    gap({ programId, before, reason }: Gap & { readonly before: string }) {
      const last = `${BigInt(before) - 1n}`;
      if (reason === "reset" || reason === "unknown_position") {
        for (const e of seen.values()) if (e.in === programId) e.in = ""; // its ids can be handed out again
      } else if (later(own(programId), last)) return false;
      at.set(programId, last);
      return true;
    },
    /** Notes an event; false for a repeat. By position, and by id and timestamp together: ids can come again after a failover. */
    take({ programId, position, id, timestamp }: AnyEvent) {
      if (!later(position, own(programId))) return false;
      at.set(programId, position);
      const fresh = seen.get(id)?.timestamp !== timestamp;
      seen.set(id, { timestamp, in: programId });
      if (seen.size > remembered) seen.delete(seen.keys().next().value as string);
      return fresh;
    },
    /** Whether one of the last events had this id, in the history that holds. */
    saw: (id: string) => !!seen.get(id)?.in,
  };
};
