// The client against a real server, with real Postgres and Redis.

import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test, vi } from "vitest";
import WebSocket from "ws";
import type { Clock, PositionStore } from "../../src/index.js";
import { serve } from "./serve.js";
import { client, emit, isLive, relayURL, tokenFor, User, until } from "./world.js";

const numbers = (from: number, through: number) => Array.from({ length: through - from + 1 }, (_, i) => from + i);

test("a committed event reaches the handler; the writer can wait for it", async () => {
  const user = await new User().create();
  const c = await client(user);
  await isLive(c.relay);
  const [id = ""] = await emit(user.p1, 1);
  await c.relay.program(user.p1).waitFor(id);
  expect(c.seen).toEqual([1]);
  expect(c.relay.status).toMatchObject({ userId: user.id, role: "member" });
  expect([...c.relay.programs].sort()).toEqual([user.p1, user.p2]);
});

test("10 drops, 20 events committed during each: every event once, in order", async () => {
  const user = await new User().create();
  const c = await client(user, { random: () => 0.01 });
  await isLive(c.relay);
  for (let n = 1; n <= 200; n++) {
    if (n % 20 === 1) c.proxy.cut();
    const [id = ""] = await emit(user.p1, n);
    if (n % 20 === 0) await c.relay.program(user.p1).waitFor(id);
  }
  expect(c.seen).toEqual(numbers(1, 200));
  expect(c.gaps).toEqual([]);
  expect(c.sockets()).toBe(11);
});

test("more than MAX_CATCHUP_EVENTS missed: a gap, the state is loaded again, the newest follow it", async () => {
  const user = await new User().create();
  const c = await client(user, { random: () => 0.05 });
  const order: unknown[] = [];
  const p1 = c.relay.program(user.p1, { state: async () => order.push("state") });
  p1.on("*", (e) => order.push(e.data.n));
  p1.onGap((g) => order.push(g.reason));
  await until(p1, () => p1.status.state === "live");
  c.proxy.block();
  const ids = await emit(user.p1, ...numbers(1, 60));
  c.proxy.allow();
  await p1.waitFor(ids.at(-1) ?? "");
  expect(order).toEqual(["state", "state", "limit", ...numbers(11, 60)]);
});

test("a connection that died without a close is noticed and replaced", async () => {
  const user = await new User().create();
  const began = Date.now();
  const fast: Clock = {
    now: () => began + (Date.now() - began) * 8,
    setTimeout: (run, ms) => setTimeout(run, ms / 8),
    clearTimeout: (timer) => clearTimeout(timer),
  };
  const c = await client(user, { clock: fast });
  await isLive(c.relay);
  c.proxy.swallow();
  const [id = ""] = await emit(user.p1, 1);
  await c.relay.program(user.p1).waitFor(id, { timeout: 200_000 });
  expect([c.seen, c.sockets()]).toEqual([[1], 2]);
});

test("tokens of 3 s: renewed on the open connection, which outlives them", async () => {
  const user = await new User().create();
  const server = await serve({ JWT_LEEWAY: "0s" });
  const fresh: boolean[] = [];
  const states: string[] = [];
  const renewed = new Promise<void>((resolve) => {
    const token = (why: { fresh: boolean }) => {
      if (fresh.push(why.fresh) === 4) resolve();
      return tokenFor(user.id, 3);
    };
    client(user, { token }, server.url).then(async (c) => {
      c.relay.onStatus((s) => states.push(s.state));
      await renewed;
      const [id = ""] = await emit(user.p1, 1);
      await c.relay.program(user.p1).waitFor(id);
      expect(c.sockets()).toBe(1);
      done();
    });
  });
  let done: () => void = () => {};
  await new Promise<void>((resolve) => {
    done = resolve;
  });
  expect(fresh).toEqual([false, true, true, true]);
  expect(new Set(states)).toEqual(new Set(["connecting", "live"]));
});

test("an expired token is refused, a fresh one is asked for", async () => {
  const user = await new User().create();
  const asked: boolean[] = [];
  const c = await client(user, {
    random: () => 0.05,
    token: ({ fresh }) => {
      asked.push(fresh);
      return tokenFor(user.id, fresh ? 600 : -60);
    },
  });
  await isLive(c.relay);
  expect(asked).toEqual([false, true]);
});

test("a bad token: closed for good, and the app is told once", async () => {
  const user = await new User().create();
  const logins: unknown[] = [];
  const c = await client(user, { token: () => `${tokenFor(user.id)}x`, onLogin: (s) => logins.push(s) });
  await until(c.relay, () => c.relay.status.state === "closed");
  expect(logins).toEqual([{ state: "closed", code: 4500, reason: "invalid_token" }]);
  expect(c.sockets()).toBe(1);
});

test("a removed member is told, gets nothing more, and is told when they are back", async () => {
  const [user, other] = [await new User().create(), await new User().create()];
  await other.join(user.p1);
  const [c, witness] = [await client(user), await client(other)];
  await Promise.all([isLive(c.relay), isLive(witness.relay)]);
  const p1 = c.relay.program(user.p1);
  const states: string[] = [];
  p1.onStatus((s) => states.push(s.state));
  const [first = ""] = await emit(user.p1, 1);
  await p1.waitFor(first); // in one batch with the revocation it would lie behind it
  await user.kick(user.p1);
  const [hidden = ""] = await emit(user.p1, 2);
  await until(p1, () => p1.status.state === "absent");
  await witness.relay.program(user.p1).waitFor(hidden);
  expect(c.relay.programs).toEqual([user.p2]);
  await user.join(user.p1);
  const [id = ""] = await emit(user.p1, 3);
  await p1.waitFor(id);
  expect(c.seen).toEqual([1, 3]);
  expect(c.gaps).toEqual(["membership"]);
  expect(states).toEqual(["live", "absent", "live"]);
});

test("a deactivated user: closed for good", async () => {
  const user = await new User().create();
  const c = await client(user);
  await isLive(c.relay);
  await user.deactivate();
  await until(c.relay, () => c.relay.status.state === "closed");
  expect(c.relay.status).toEqual({ state: "closed", code: 4503, reason: "user_inactive" });
});

test("somebody else's program says so", async () => {
  const [user, other] = [await new User().create(), await new User().create()];
  const c = await client(user);
  const p = c.relay.program(other.p1);
  await isLive(c.relay);
  expect(p.status).toEqual({ state: "absent" });
});

test("the server restarts: nothing is missing", async () => {
  const user = await new User().create();
  const server = await serve({});
  const c = await client(user, { random: () => 0.2 }, server.url);
  await isLive(c.relay);
  await emit(user.p1, 1);
  const codes: number[] = [];
  c.relay.onStatus((s) => s.state === "waiting" && codes.push(s.code));
  await server.stop();
  await until(c.relay, () => c.relay.status.state === "waiting");
  await emit(user.p1, 2);
  await server.start();
  const [id = ""] = await emit(user.p1, 3);
  await c.relay.program(user.p1).waitFor(id);
  expect(c.seen).toEqual([1, 2, 3]);
  expect(codes[0]).toBe(1012);
});

test("a program that is asked for later, with a filter", async () => {
  const user = await new User().create();
  const c = await client(user, { programs: [] });
  await isLive(c.relay);
  expect(c.relay.programs).toEqual([user.p1]);
  const p2 = c.relay.program(user.p2);
  const seen: unknown[] = [];
  p2.on("*", (e) => seen.push(e.data.n));
  const [one = ""] = await emit(user.p1, 1);
  await c.relay.program(user.p1).waitFor(one);
  await until(p2, () => p2.status.state === "live");
  const [two = ""] = await emit(user.p2, 2);
  await p2.waitFor(two);
  expect([c.seen, seen, c.gaps]).toEqual([[1], [2], []]);
});

test("a reloaded page gets what came while it was away, and nothing twice", async () => {
  const user = await new User().create();
  let saved: Record<string, string> | undefined;
  const storage: PositionStore = {
    load: () => saved,
    save: (positions) => {
      saved = positions;
    },
  };
  const before = await client(user, { storage });
  await isLive(before.relay);
  const [one = ""] = await emit(user.p1, 1);
  await before.relay.program(user.p1).waitFor(one);
  before.relay.close();
  await emit(user.p1, 2);
  const after = await client(user, { storage });
  await isLive(after.relay);
  expect([before.seen, after.seen, after.gaps]).toEqual([[1], [2], []]);
});

test("the file that the dev server serves is a module that works", async () => {
  const answer = await fetch(`http://${relayURL.host}/outbox-relay.js`);
  expect(answer.headers.get("content-type")).toBe("text/javascript; charset=utf-8");
  const folder = await mkdtemp(join(tmpdir(), "outbox-relay-client-"));
  onTestFinished(() => rm(folder, { recursive: true }));
  await writeFile(join(folder, "outbox-relay.mjs"), await answer.text());
  const { connect, positionStore } = await import(/* @vite-ignore */ join(folder, "outbox-relay.mjs"));
  const user = await new User().create();
  const relay = connect(relayURL, { token: () => tokenFor(user.id), WebSocket, storage: positionStore(user.id) });
  onTestFinished(() => relay.close());
  const handler = vi.fn();
  relay.program(user.p1).on("request:created", handler);
  await isLive(relay);
  const [id = ""] = await emit(user.p1, 1);
  await relay.program(user.p1).waitFor(id);
  expect(handler).toHaveBeenCalledExactlyOnceWith(expect.objectContaining({ id, data: { n: 1 } }));
});
