import { expect, test, vi } from "vitest";
import { event, jwt, live, pass, ready, settle, start, world } from "./world.js";

// world() itself checks after each test that close() has left no timer. These close at awkward moments.

test.each(["at once", "token", "socket", "auth", "ready", "live", "waiting", "closed"])("close() while %s", async (moment) => {
  let token: (jwt: string) => void = () => {};
  const w = world(moment === "token" ? { token: () => new Promise((resolve) => (token = resolve)) } : {});
  const steps: Record<string, () => unknown> = {
    "at once": () => {},
    token: settle,
    socket: settle,
    auth: () => w.socket().open(),
    ready: () => w.socket().message(ready(["p1"])),
    live: () => w.socket().message(live()),
    waiting: () => w.socket().end(1006),
    closed: () => w.socket().end(4503),
  };
  for (const [name, step] of Object.entries(steps)) {
    if (name === "closed") await pass(500);
    await step();
    if (name === moment) break;
  }
  w.relay.close();
  token("t");
  await settle();
  expect(vi.getTimerCount()).toBe(0);
  expect(w.sockets.every((s) => s.closed || moment === "waiting" || moment === "closed")).toBe(true);
  const { length } = w.sockets;
  w.relay.reconnect();
  await pass(60_000);
  expect(w.sockets.length).toBe(length);
  expect(w.relay.status).toEqual({ state: "closed", code: 1000, reason: "closed" });
});

test("close() while a renewal is under way", async () => {
  let renewed: (token: string) => void = () => {};
  const w = world({ token: ({ fresh }) => (fresh ? new Promise((resolve) => (renewed = resolve)) : "t") });
  const s = await w.live();
  s.answers = true;
  await pass(3_540_000);
  expect(w.relay.status.state).toBe("live");
  w.relay.close();
  renewed(jwt(start + 7_200_000));
  await settle();
  expect(s.sent.filter((f) => f.type === "auth").length).toBe(1);
});

test("close() while state runs and after it has failed: neither goes on", async () => {
  let calls = 0;
  let fail: (error: Error) => void = () => {};
  const state = () => {
    calls++;
    return new Promise((_, reject) => (fail = reject));
  };
  const w = world();
  const failing = w.relay.program("p1", { state });
  const seen: string[] = [];
  failing.on("*", (e) => seen.push(e.id));
  const s = await w.live();
  s.message(event(1));
  w.relay.close();
  fail(new Error("too late"));
  await pass(60_000);
  expect([calls, seen]).toEqual([1, []]);
});

test("a handler that closes the relay is the last one called", async () => {
  const w = world();
  const seen: string[] = [];
  w.relay.program("p1").on("*", (e) => {
    seen.push(e.id);
    w.relay.close();
  });
  const s = await w.live();
  s.message(event(1), event(2));
  s.message(event(3));
  expect(seen).toEqual(["1"]);
});

test("a handler that closes the relay while held events are handed out is the last one called", async () => {
  let loaded: (value?: unknown) => void = () => {};
  const w = world();
  const p = w.relay.program("p1", { state: () => new Promise((resolve) => (loaded = resolve)) });
  const seen: string[] = [];
  p.on("*", (e) => {
    seen.push(e.id);
    w.relay.close();
  });
  const s = await w.live();
  s.message(event(1), event(2));
  loaded();
  await settle();
  expect(seen).toEqual(["1"]);
});

// The connect that it was told of went on: a token was fetched, a socket opened, and handlers got events after close().
test.each(["close", "reconnect"] as const)(
  "a handler of `connecting` that calls %s(): the connect that it was told of doesn't go on",
  async (call) => {
    const w = world();
    const s = await w.live();
    let calls = 0;
    w.relay.onStatus(({ state }) => state === "connecting" && calls++ === 0 && w.relay[call]());
    s.end(1006);
    await pass(500);
    const made = call === "close" ? 1 : 2;
    expect([w.tokens.length, w.sockets.length]).toEqual([made, made]);
  },
);

test("closing twice is closing once", async () => {
  const w = world();
  await w.live();
  w.relay.close();
  w.relay.close();
  expect(w.statuses.filter((s) => s.state === "closed").length).toBe(1);
});
