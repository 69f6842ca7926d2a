import { expect, test, vi } from "vitest";
import { connect } from "../../src/index.js";
import { event, live, pass, ready, settle, start, world } from "./world.js";

test("the first frame carries the token, nothing else does", async () => {
  const w = world();
  await settle();
  expect(w.socket().url).toBe("wss://example.com/ws");
  w.socket().open();
  expect(w.socket().sent).toEqual([{ type: "auth", token: "token 1", batch: true, since: {} }]);
});

test.each([
  ["https://example.com/ws", "wss://example.com/ws"],
  ["http://127.0.0.1:8080/https/ws", "ws://127.0.0.1:8080/https/ws"],
  [new URL("ws://h/ws"), "ws://h/ws"],
])("connects to %s", async (url, want) => {
  const seen: string[] = [];
  const relay = connect(url, {
    token: () => "t",
    WebSocket: class extends (await import("./world.js")).Socket {
      constructor(address: string) {
        super(address);
        seen.push(address);
      }
    },
  });
  await vi.waitFor(() => expect(seen).toEqual([want]));
  relay.close();
});

test("bad input is refused at once, saying what to do", () => {
  vi.stubGlobal("WebSocket", undefined);
  expect(() => connect("wss://h/ws", { token: () => "t" })).toThrow("set options.WebSocket");
  expect(() => connect("/ws", { token: () => "t", WebSocket: class {} as never })).toThrow("Invalid URL");
  const w = world();
  expect(() => w.relay.program("")).toThrow("no program id");
});

test("statuses: connecting, live, waiting with the time of the next try, closed", async () => {
  const w = world();
  await w.live();
  w.socket().end(1006);
  await pass(500);
  w.relay.close();
  expect(w.statuses.filter((s, i) => s !== w.statuses[i - 1])).toEqual([
    { state: "connecting" },
    { state: "live", userId: "u1", role: "member" },
    { state: "waiting", retryAt: start + 500, code: 1006 },
    { state: "connecting" },
    { state: "closed", code: 1000, reason: "closed" },
  ]);
  expect(w.relay.status).toEqual(w.statuses.at(-1));
});

// A handler that closes the relay when it goes live made those after it see "closed" and then "live", for good.
test("a handler that changes the status leaves the others with the newest", async () => {
  const w = world();
  const program = w.relay.program("p1");
  const seen: string[][] = [[], []];
  const other = w.relay.program("p2");
  program.onStatus((s) => s.state === "live" && w.relay.close());
  program.onStatus((s) => seen[0]?.push(s.state));
  w.relay.onStatus((s) => seen[1]?.push(s.state));
  await w.live();
  expect(seen.map((states) => states.at(-1))).toEqual(["closed", "closed"]);
  expect(other.status.state).toBe("closed");
});

test.each([4000, 4001, 4002, 4008, 4013, 4499, 1000, 1001, 1005, 1006, 1011, 1012, 1013])("close code %i: tries again", async (code) => {
  const w = world();
  await w.live();
  w.socket().end(code);
  expect(w.relay.status).toEqual({ state: "waiting", retryAt: start + 500 + (code === 4013 ? 5000 : 0), code });
  await pass(5500);
  expect(w.sockets.length).toBe(2);
});

test.each([4500, 4501, 4502, 4503, 4504, 4999, 1002, 1003, 1007, 1009])("close code %i: final", async (code) => {
  const logins: number[] = [];
  const w = world({ onLogin: (s) => logins.push(s.code) });
  const s = await w.live();
  s.message({ type: "error", code: "some_code", message: "…" });
  s.end(code);
  expect(w.relay.status).toEqual({ state: "closed", code, reason: "some_code" });
  await pass(3_600_000);
  expect(w.sockets.length).toBe(1);
  expect(logins).toEqual(code === 4500 || code === 4501 ? [code] : []);
  expect(vi.getTimerCount()).toBe(0);
});

test("after 4001 a fresh token is asked for, once", async () => {
  const w = world();
  await w.live();
  w.socket().end(4001);
  await pass(500);
  w.socket().open();
  expect(w.socket().sent[0]?.token).toBe("token 2");
  w.socket().end(1006);
  await pass(1000);
  expect(w.tokens).toEqual([{ fresh: false }, { fresh: true }, { fresh: false }]);
});

test("no token: closed, and the app is told to log in; reconnect() goes on with the positions", async () => {
  let token: string | null = "t";
  const logins: unknown[] = [];
  const w = world({ token: async () => token, onLogin: (s) => logins.push(s) });
  const s = await w.live();
  s.message(event(1));
  token = null;
  s.end(1012);
  await pass(500);
  expect(w.relay.status).toEqual({ state: "closed", code: 4501, reason: "auth_required" });
  expect(logins).toEqual([w.relay.status]);
  token = "again";
  w.relay.reconnect();
  await settle();
  w.socket().open();
  expect(w.socket().sent).toEqual([{ type: "auth", token: "again", batch: true, since: { p1: "1001" } }]);
});

test("full jitter: the bound doubles from 0.5 s to 30 s, and begins anew after 30 s of connection", async () => {
  const w = world();
  const bounds: number[] = [];
  for (let i = 0; i < 8; i++) {
    await settle();
    w.socket().end(1006);
    if (w.relay.status.state !== "waiting") throw new Error(w.relay.status.state);
    bounds.push(w.relay.status.retryAt - Date.now());
    await pass(bounds.at(-1) ?? 0);
  }
  expect(bounds).toEqual([500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]);
  await w.live();
  await pass(26_000);
  w.socket().message({ type: "pong" });
  await pass(5_000);
  w.socket().end(1006);
  expect(w.relay.status).toMatchObject({ retryAt: Date.now() + 500 });
});

test("the jitter goes down to 0", async () => {
  const w = world({ random: () => 0 });
  await w.live();
  w.socket().end(1012);
  await settle();
  expect(w.sockets.length).toBe(2);
});

test("a token callback that throws is reported and tried again", async () => {
  let fails = 2;
  const w = world({
    token: async () => {
      if (fails-- > 0) throw new Error("the token endpoint is down");
      return "t";
    },
  });
  await settle();
  expect(w.relay.status.state).toBe("waiting");
  await pass(500 + 1000);
  expect(w.sockets.length).toBe(1);
  expect(w.errors).toEqual([new Error("the token endpoint is down"), new Error("the token endpoint is down")]);
});

test("a WebSocket constructor that throws is reported and tried again", async () => {
  const w = world({
    WebSocket: class {
      constructor() {
        throw new Error("blocked");
      }
    } as never,
  });
  await settle();
  expect(w.errors).toEqual([new Error("blocked")]);
  expect(w.relay.status.state).toBe("waiting");
});

test.each(["token", "open", "ready"])("20 s without %s: given up, and what comes late is ignored", async (missing) => {
  let late: (token: string) => void = () => {};
  const w = world(missing === "token" ? { token: () => new Promise((resolve) => (late = resolve)) } : {});
  await settle();
  if (missing === "ready") w.socket().open();
  await pass(20_000);
  expect(w.relay.status.state).toBe("waiting");
  late("t");
  await settle();
  for (const s of w.sockets) {
    expect(s.closed).toBe(true);
    s.open();
    s.message(ready(["p1"]), live());
    s.end(4500);
  }
  expect(w.relay.status.state).toBe("waiting");
});

test("a message that isn't JSON is reported, and the connection made anew", async () => {
  const w = world();
  const s = await w.live();
  s.onmessage?.({ data: "<html>" });
  expect(w.errors).toEqual([expect.any(SyntaxError)]);
  expect(w.relay.status.state).toBe("waiting");
});

test("a frame of an unknown type is none of our business", async () => {
  const w = world();
  const s = await w.live();
  s.message({ type: "news" }, event(1));
  expect(w.errors).toEqual([]);
  expect(w.relay.status.state).toBe("live");
});

test("the clock can be replaced, also by an object whose methods need their this", async () => {
  class Clock {
    time = 5;
    timers = new Map<number, () => void>();
    now() {
      return this.time;
    }
    setTimeout(run: () => void, ms: number) {
      this.timers.set(ms, run);
      return ms;
    }
    clearTimeout(ms: number) {
      this.timers.delete(ms);
    }
  }
  const clock = new Clock();
  const w = world({ clock });
  await w.live();
  w.socket().end(1006);
  expect(w.relay.status).toEqual({ state: "waiting", retryAt: 505, code: 1006 });
  clock.timers.get(500)?.();
  await settle();
  expect(w.sockets.length).toBe(2);
  w.relay.close();
  expect(clock.timers.size).toBe(0);
});

test("a token callback that fails when nobody waits for it any more changes nothing", async () => {
  let fail: (error: Error) => void = () => {};
  const w = world({ token: () => new Promise((_, reject) => (fail = reject)) });
  await pass(20_000);
  const { status } = w.relay;
  fail(new Error("too late"));
  await settle();
  expect([w.relay.status, w.errors]).toEqual([status, []]);
});

test("the reason of one connection isn't taken for that of the next", async () => {
  const w = world();
  const s = await w.live();
  s.message({ type: "error", code: "slow_consumer", message: "…" });
  s.end(4008);
  await pass(500);
  w.socket().end(4503);
  expect(w.relay.status).toEqual({ state: "closed", code: 4503, reason: "" });
});
