// The frames of the server; docs/PROTOCOL.md describes them.

import type { Catalog } from "./catalog.js";

/** The names of a catalog's events. */
export type NameOf<C> = keyof C & string;

/**
 * One event. Of a union of names it is a union, so that a check of `event` narrows `data`. Fields that the row didn't have are
 * absent. `id` may be handed out again after a failover that lost data; `position` grows within a program and is a whole number
 * too large for a `number`: compare positions as BigInt.
 */
export type RelayEvent<C = Catalog, K extends NameOf<C> = NameOf<C>> = {
  [N in K]: {
    readonly type: "event";
    readonly id: string;
    readonly position: string;
    readonly event: N;
    readonly programId: string;
    readonly requestId?: string;
    readonly data: C[N];
    readonly performedBy?: { readonly userId?: string; readonly name?: string };
    readonly timestamp: string;
  };
}[K];

/** Events between `after` and `before`, both exclusive, may be missing: what is known of the program is to be read anew. */
export interface Gap {
  readonly type: "gap";
  readonly programId: string;
  /**
   * The server's: `reset`, `unknown_position`, `expired`, `limit`, `membership`. The client says `unknown_position` where it had no
   * position to resume from, and `membership` where the program was gained (again).
   */
  readonly reason: "reset" | "unknown_position" | "expired" | "limit" | "membership";
  readonly after?: string;
  readonly before?: string;
}

/** An event whose name and data aren't looked at. */
export type AnyEvent = Omit<RelayEvent<{ "": unknown }>, "event"> & { readonly event: string };

/** What the server sends. */
export type Frame =
  | AnyEvent
  | (Gap & { readonly before: string })
  | { type: "ready"; userId: string; role: string; programs: string[]; tokenExpiresAt: string }
  | { type: "live" | "position"; position?: string }
  | { type: "joined" | "left"; programId: string; position: string }
  | { type: "error"; code: string; message: string }
  | { type: "pong" };
