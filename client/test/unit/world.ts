// A client under a fake clock, with sockets that the test holds both ends of.

import { onTestFinished, vi } from "vitest";
import { connect, type Options, type Relay, type Status, type WebSocketLike } from "../../src/index.js";

export const start = Date.parse("2026-01-01T00:00:00Z");

/** settle runs what is due now, promises included. */
export const settle = () => vi.advanceTimersByTimeAsync(0);
export const pass = (ms: number) => vi.advanceTimersByTimeAsync(ms);

export class Socket implements WebSocketLike {
  onopen: ((event: unknown) => void) | null = null;
  onmessage: ((event: unknown) => void) | null = null;
  onclose: ((event: unknown) => void) | null = null;
  onerror: ((event: unknown) => void) | null = null;
  sent: Record<string, any>[] = [];
  closed = false;
  /** Pings are answered: the other end is alive. */
  answers = false;
  constructor(readonly url: string) {}
  send(data: string) {
    const frame = JSON.parse(data);
    this.sent.push(frame);
    if (this.answers && frame.type === "ping") queueMicrotask(() => this.message({ type: "pong" }));
  }
  close() {
    this.closed = true;
  }
  /** The server's side. */
  open() {
    this.onopen?.({});
  }
  message(...frames: object[]) {
    this.onmessage?.({ data: JSON.stringify(frames.length === 1 ? frames[0] : frames) });
  }
  end(code: number) {
    this.onclose?.({ code, reason: "" });
  }
}

export const ready = (programs: string[], more: object = {}) => ({
  type: "ready",
  userId: "u1",
  role: "member",
  programs,
  tokenExpiresAt: new Date(Date.now() + 3_600_000).toISOString(),
  ...more,
});
export const live = (position?: string) => ({ type: "live", position });

/** event is one of program p1 whose id and position follow from n, unless more says otherwise. */
export const event = (n: number, more: object = {}) => ({
  type: "event",
  id: `${n}`,
  position: `${1000 + n}`,
  event: "request:created",
  programId: "p1",
  data: { n },
  timestamp: new Date(start + n).toISOString(),
  ...more,
});

export interface World {
  relay: Relay;
  sockets: Socket[];
  /** The newest socket, which must be there. */
  socket(): Socket;
  /** Opens the newest socket and goes live in these programs. */
  live(programs?: string[], position?: string): Promise<Socket>;
  statuses: Status[];
  errors: unknown[];
  tokens: { fresh: boolean }[];
}

/** world connects a client. The clock stands still, the jitter is the whole of its bound. */
export function world(options: Partial<Options> = {}): World {
  vi.useFakeTimers({ now: start });
  const sockets: Socket[] = [];
  const errors: unknown[] = [];
  const tokens: { fresh: boolean }[] = [];
  const statuses: Status[] = [];
  const relay = connect("wss://example.com/ws", {
    token: (why) => {
      tokens.push(why);
      return `token ${tokens.length}`;
    },
    WebSocket: class extends Socket {
      constructor(url: string) {
        super(url);
        sockets.push(this);
      }
    },
    random: () => 1,
    onError: (error) => errors.push(error),
    ...options,
  });
  relay.onStatus((s) => statuses.push(s));
  onTestFinished(() => {
    relay.close();
    if (!vi.isFakeTimers()) return; // the test's other client has looked
    const left = vi.getTimerCount();
    vi.useRealTimers();
    if (left > 0) throw new Error(`${left} timers are left after close()`);
  });
  const socket = () => {
    const newest = sockets.at(-1);
    if (!newest) throw new Error("there is no socket yet");
    return newest;
  };
  return {
    relay,
    sockets,
    socket,
    statuses,
    errors,
    tokens,
    async live(programs = ["p1"], position?: string) {
      await settle();
      const s = socket();
      s.open();
      s.message(ready(programs), live(position));
      await settle();
      return s;
    },
  };
}

/** jwt is an unsigned token that expires at a time in ms since 1970. */
export const jwt = (expiry: number) =>
  `e30.${btoa(JSON.stringify({ sub: "u1", exp: expiry / 1000, name: "ÿ>?" }, undefined, 0).replace(/[^ -~]/g, "?"))}.x`;
