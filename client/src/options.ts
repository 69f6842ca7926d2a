// What an application can set, and what of the surroundings can be replaced.

import type { Closed } from "./status.js";

/** Where positions are kept over a page reload; `@outboxrelay/client/storage` has one for the browser. Both calls are synchronous. */
export interface PositionStore {
  /** The positions by program that were saved last; `"*"` stands for all others. */
  load(): Record<string, string> | undefined;
  /** Called after each message whose events have been handled. */
  save(positions: Record<string, string>): void;
}

/** The clock and timers of the browser or Node, unless a test replaces them. Times are ms since 1970. */
export interface Clock {
  now(): number;
  setTimeout(run: () => void, ms: number): unknown;
  clearTimeout(timer: any): void;
}

/** What is used of a WebSocket: the browser's, Node's, that of `ws` or a fake. */
export interface WebSocketLike {
  onopen: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  send(data: string): void;
  close(): void;
}

export type WebSocketClass = new (url: string) => WebSocketLike;

/** A token, or null for nobody: then the relay closes and `onLogin` is called. */
export type Token = string | null | undefined;

/** What `connect` takes. `token` is required. */
export interface Options {
  /**
   * Called before every connect, and again before the token of an open connection expires. `fresh` says that the last token has expired
   * or is about to: one from a cache won't do. If it throws, it is tried again later.
   */
  token(why: { fresh: boolean }): Token | Promise<Token>;
  /**
   * Only these programs are sent, and those that `program()` is called for; a later one makes the client connect again, without
   * a loss. Without it: all programs of the user.
   */
  programs?: Iterable<string>;
  /** Resume after a page reload. */
  storage?: PositionStore;
  /** Called once when the user has to log in again (4500, 4501, no token). `reconnect()` goes on after that. */
  onLogin?(status: Closed): void;
  /** Gets what handlers, `token` and `state` throw. Default: `reportError`, else `console.error`. */
  onError?(error: unknown): void;
  /** Default: the global one. */
  WebSocket?: WebSocketClass;
  clock?: Clock;
  /** Returns 0 to 1, for the jitter. */
  random?(): number;
}

/** The surroundings with the defaults filled in. */
export interface Env {
  clock: Clock;
  random(): number;
  report(error: unknown): void;
  /** Calls what the application gave; what it throws, at once or as a promise, is reported. */
  call<T>(run: (value: T) => unknown, value: T): void;
}

const system: Clock = {
  now: () => Date.now(),
  setTimeout: (run, ms) => setTimeout(run, ms),
  clearTimeout: (timer) => clearTimeout(timer),
};

export const environment = ({ clock = system, random = Math.random, onError }: Options): Env => {
  const report = (error: unknown) => {
    try {
      (onError ?? globalThis.reportError ?? console.error)(error);
    } catch {} // the one who is told of errors has nobody to tell
  };
  return {
    clock,
    random,
    report,
    call(run, value) {
      try {
        (run(value) as Promise<unknown> | undefined)?.catch?.(report);
      } catch (error) {
        report(error);
      }
    },
  };
};

/** One timer: called with a time in ms it replaces what was set, without one it stops. Longer than 24 days becomes 24 days. */
export const alarm = ({ clock }: Env, run: () => void) => {
  let timer: unknown;
  return (ms?: number) => {
    clock.clearTimeout(timer);
    timer = ms === undefined ? ms : clock.setTimeout(run, Math.min(ms, 2 ** 31 - 1));
  };
};
