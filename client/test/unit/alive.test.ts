import "./setup.js";
import { expect, test, vi } from "vitest";
import { environment } from "../../src/options.js";
import { renewal } from "../../src/renewal.js";
import { event, jwt, live, pass, ready, settle, start, type World, world } from "./world.js";

const pings = (sent: Record<string, any>[]) => sent.filter((f) => f.type === "ping").length;

test("watchdog: asks after 25 s of silence; an answer within 5 s is enough", async () => {
  const w = world();
  const s = await w.live();
  await pass(20_000);
  s.message({ type: "position" });
  await pass(24_999);
  expect(pings(s.sent)).toBe(0);
  await pass(1);
  expect(pings(s.sent)).toBe(1);
  await pass(4_999);
  s.message({ type: "pong" });
  await pass(25_000 - 1);
  expect(pings(s.sent)).toBe(1);
  await pass(1);
  expect(pings(s.sent)).toBe(2);
  expect(w.relay.status.state).toBe("live");
});

// A connection can die without a close: nothing is sent, nothing is received, no error.
test("watchdog: 5 s without an answer, and the connection is made anew", async () => {
  const w = world();
  const s = await w.live();
  await pass(30_000);
  expect(s.closed).toBe(true);
  expect(w.relay.status).toEqual({ state: "waiting", retryAt: start + 30_500, code: 1006 });
  s.message(event(1)); // what comes late is not taken: the new connection will get it
  await pass(500);
  expect(w.sockets.length).toBe(2);
});

// The silence was counted from a time that was still to come: a dead connection wasn't noticed for an hour.
test("watchdog: notices it also when the clock has been set back", async () => {
  const w = world();
  await w.live();
  await pass(10_000);
  vi.setSystemTime(start - 3_600_000);
  await pass(20_000);
  expect(w.relay.status.state).toBe("waiting");
});

test("watchdog: what an old connection says is no sign of life of the new one", async () => {
  const w = world();
  const old = await w.live();
  old.end(1006);
  await pass(500);
  await w.live();
  await pass(20_000);
  old.message({ type: "pong" });
  await pass(10_000);
  expect(w.relay.status.state).toBe("waiting");
});

// The server answers a ping that comes before `auth` with a close that is final.
test("watchdog: says nothing before ready", async () => {
  const w = world();
  await settle();
  const s = w.socket();
  s.open();
  dispatchOnline();
  await pass(19_000);
  expect(s.sent.map((f) => f.type)).toEqual(["auth"]);
});

test("wake: a pause ends at once when the network is back", async () => {
  const w = world();
  await w.live();
  w.socket().end(1006);
  expect(w.relay.status.state).toBe("waiting");
  dispatchOnline();
  await settle();
  expect(w.sockets.length).toBe(2);
});

test("wake: an open connection is asked for a sign of life, not more often than every 5 s", async () => {
  const w = world();
  const s = await w.live();
  dispatchOnline();
  dispatchOnline();
  expect(pings(s.sent)).toBe(1);
  s.message({ type: "pong" });
  await pass(4_999);
  dispatchOnline();
  expect(pings(s.sent)).toBe(1);
  await pass(1);
  dispatchOnline();
  expect(pings(s.sent)).toBe(2);
  await pass(5_000);
  expect(w.relay.status.state).toBe("waiting");
});

test("wake: an open connection is asked also when the clock has been set back since the last ping", async () => {
  const w = world();
  const s = await w.live();
  dispatchOnline();
  s.message({ type: "pong" });
  vi.setSystemTime(start - 3_600_000);
  dispatchOnline();
  expect(pings(s.sent)).toBe(2);
});

test("wake: after close() nobody listens", async () => {
  const added = vi.spyOn(globalThis, "addEventListener");
  const removed = vi.spyOn(globalThis, "removeEventListener");
  const w = world();
  await w.live();
  w.socket().end(1006);
  w.relay.close();
  expect(added.mock.calls.length).toBe(1);
  expect(removed.mock.calls).toEqual(added.mock.calls);
  dispatchOnline();
  await settle();
  expect(w.sockets.length).toBe(1);
});

test("wake: a page that is looked at again, not one that is hidden", async () => {
  const document = Object.assign(new EventTarget(), { hidden: false });
  vi.stubGlobal("document", document);
  const w = world();
  await w.live();
  w.socket().end(1006);
  document.hidden = true;
  document.dispatchEvent(new Event("visibilitychange"));
  await settle();
  expect(w.sockets.length).toBe(1);
  document.hidden = false;
  document.dispatchEvent(new Event("visibilitychange"));
  await settle();
  expect(w.sockets.length).toBe(2);
});

test("renewal: a minute before the expiry, on the open connection, again and again", async () => {
  const hour = 3_600_000;
  const w = world({ token: () => jwt(Date.now() + hour) });
  const s = await alive(w);
  const auths = () => s.sent.filter((f) => f.type === "auth").length;
  await pass(hour - 60_001);
  expect(auths()).toBe(1);
  await pass(1);
  expect(s.sent.at(-1)).toEqual({ type: "auth", token: jwt(Date.now() + hour) });
  await pass(hour - 60_001);
  expect(auths()).toBe(2);
  await pass(1);
  expect(auths()).toBe(3);
  expect([w.sockets.length, w.relay.status.state]).toEqual([1, "live"]);
});

test("renewal: asks for a fresh token, and the next connect doesn't", async () => {
  const why: boolean[] = [];
  const w = world({
    token: ({ fresh }) => {
      why.push(fresh);
      return jwt(Date.now() + 3_600_000);
    },
  });
  await alive(w);
  await pass(3_540_000);
  w.socket().end(1006);
  await pass(500);
  expect(why).toEqual([false, true, false]);
});

test("renewal: the next connect after it takes a cached token", async () => {
  const w = world();
  await alive(w).then((s) => pass(3_540_000).then(() => (s.answers = false)));
  await pass(31_000); // the watchdog gives up
  expect(w.tokens.map((t) => t.fresh)).toEqual([false, true, false]);
});

test("renewal: of a short token when a fifth of it is left", async () => {
  const w = world();
  await settle();
  w.socket().open();
  w.socket().message(ready([], { tokenExpiresAt: new Date(start + 10_000).toISOString() }), live());
  await pass(7_999);
  expect(w.socket().sent.length).toBe(1);
  await pass(1);
  expect(w.socket().sent.length).toBe(2);
});

test("renewal: a token callback that fails is reported and asked again after 10 s, the connection stays", async () => {
  let fails = 2;
  const w = world({
    token: async ({ fresh }) => {
      if (fresh && fails-- > 0) throw new Error("no token");
      return jwt(Date.now() + 3_600_000);
    },
  });
  const s = await alive(w);
  await pass(3_540_000 + 19_999);
  expect([w.errors.length, s.sent.filter((f) => f.type === "auth").length]).toEqual([2, 1]);
  await pass(1);
  expect(s.sent.filter((f) => f.type === "auth").length).toBe(2);
  await pass(60_000);
  expect([w.sockets.length, s.sent.filter((f) => f.type === "auth").length]).toEqual([1, 2]);
});

test("renewal: a callback that has no token any more closes the relay", async () => {
  const w = world({ token: ({ fresh }) => (fresh ? null : "t") });
  await alive(w);
  await pass(3_540_000);
  expect(w.relay.status).toEqual({ state: "closed", code: 4501, reason: "auth_required" });
});

// A timer longer than 2^31 ms fires at once: a token of a year was renewed in a loop.
test("renewal: an expiry that is further away than a timer goes", async () => {
  vi.useFakeTimers({ now: start });
  const renew = vi.fn();
  const day = 86_400_000;
  const renewals = renewal(environment({ token: () => "t" }), renew);
  renewals.until(start + 60 * day);
  await pass(60 * day - 60_001);
  expect(renew).not.toHaveBeenCalled();
  await pass(1);
  expect(renew).toHaveBeenCalledOnce();
  renewals.stop();
  expect(vi.getTimerCount()).toBe(0);
  vi.useRealTimers();
});

// By the clock of a computer that is an hour fast every token has expired: a renewal would follow a renewal.
test("renewal: none by a clock that is fast", async () => {
  const w = world();
  await settle();
  w.socket().open();
  w.socket().message(ready([], { tokenExpiresAt: new Date(start - 1).toISOString() }), live());
  await pass(20_000);
  expect(w.tokens.length).toBe(1);
});

// While a computer sleeps its timers stand still: after it, the token had expired with 50 minutes left on the timer.
test("renewal: when the page wakes up and the time has come", async () => {
  const w = world();
  const s = await alive(w);
  vi.setSystemTime(start + 3_590_000);
  dispatchOnline();
  await settle();
  expect(s.sent.filter((f) => f.type === "auth").length).toBe(2);
});

async function alive(w: World) {
  const s = await w.live();
  s.answers = true;
  return s;
}

function dispatchOnline() {
  globalThis.dispatchEvent(new Event("online"));
}
