// The fake relay speaks the protocol: what the real client makes of it is what it would make of a server.

import { expect, onTestFinished, test, vi } from "vitest";
import { connect, type Gap, type Options } from "../../src/index.js";
import { type FakeOptions, fakeRelay } from "../../src/testing.js";

interface Catalog {
  "thing:made": { n: number };
}

async function setup(options: FakeOptions = {}, more: Partial<Options> = {}) {
  vi.useFakeTimers();
  const fake = fakeRelay<Catalog>({ programs: ["p1"], ...options });
  const relay = connect<Catalog>("ws://fake/ws", { token: () => "t", WebSocket: fake.WebSocket, random: () => 0.01, ...more });
  const program = relay.program("p1");
  const events: number[] = [];
  const gaps: Gap["reason"][] = [];
  program.on("thing:made", (e) => events.push(e.data.n));
  program.onGap((g) => gaps.push(g.reason));
  onTestFinished(() => {
    relay.close();
    expect(vi.getTimerCount()).toBe(0);
    vi.useRealTimers();
  });
  await fake.connected();
  return { fake, relay, program, events, gaps };
}

const soon = () => vi.advanceTimersByTimeAsync(1000); // enough for some tries

test("emit reaches the handlers before it returns", async () => {
  const { fake, program, events } = await setup();
  const e = fake.emit("p1", "thing:made", { n: 1 }, { requestId: "r1" });
  expect(events).toEqual([1]);
  expect(e).toMatchObject({ event: "thing:made", requestId: "r1", programId: "p1" });
  await program.waitFor(e.id);
  fake.emit("p2", "thing:made", { n: 2 });
  expect(events).toEqual([1]);
});

test("what is missed while away is caught up", async () => {
  const { fake, events, gaps, relay } = await setup();
  fake.emit("p1", "thing:made", { n: 1 });
  fake.offline();
  fake.emit("p1", "thing:made", { n: 2 });
  await soon();
  expect(relay.status.state).not.toBe("live");
  expect(fake.connections).toBe(0);
  fake.online();
  await soon();
  expect([events, gaps, relay.status.state]).toEqual([[1, 2], [], "live"]);
});

test("silence is noticed by the client's watchdog", async () => {
  const { fake, events, relay } = await setup();
  fake.offline({ silent: true });
  fake.emit("p1", "thing:made", { n: 1 });
  await vi.advanceTimersByTimeAsync(29_999);
  expect([relay.status.state, events]).toEqual(["live", []]);
  await vi.advanceTimersByTimeAsync(1);
  expect(relay.status.state).not.toBe("live");
  fake.online();
  await vi.advanceTimersByTimeAsync(20_000);
  expect([relay.status.state, events]).toEqual(["live", [1]]);
});

test("too much missed, forgotten, a history replaced: each is a gap", async () => {
  const { fake, events, gaps } = await setup({ maxCatchup: 2 });
  fake.emit("p1", "thing:made", { n: 0 });
  fake.offline();
  for (const n of [1, 2, 3]) fake.emit("p1", "thing:made", { n });
  fake.online();
  await soon();
  expect([events, gaps]).toEqual([[0, 2, 3], ["limit"]]);
  fake.offline();
  fake.emit("p1", "thing:made", { n: 4 });
  fake.forget();
  fake.online();
  await soon();
  fake.gap("p1", "reset");
  expect([events, gaps]).toEqual([
    [0, 2, 3],
    ["limit", "expired", "reset"],
  ]);
});

test("a position that nobody knows is a gap", async () => {
  const { gaps } = await setup({}, { storage: { load: () => ({ p1: "9".repeat(20) }), save: () => {} } });
  expect(gaps).toEqual(["unknown_position"]);
});

test("kick and join", async () => {
  const { fake, program, events, relay } = await setup();
  fake.kick("p1");
  fake.emit("p1", "thing:made", { n: 1 });
  expect([program.status.state, relay.programs]).toEqual(["absent", []]);
  fake.join("p1");
  fake.emit("p1", "thing:made", { n: 2 });
  expect([program.status.state, events]).toEqual(["live", [2]]);
});

test("expire, drop with a final code", async () => {
  const tokens: boolean[] = [];
  const { fake, relay } = await setup(
    {},
    {
      token: ({ fresh }) => {
        tokens.push(fresh);
        return "t";
      },
    },
  );
  fake.expire();
  await soon();
  await fake.connected();
  expect(tokens).toEqual([false, true]);
  fake.drop(4503, "user_inactive");
  expect(relay.status).toEqual({ state: "closed", code: 4503, reason: "user_inactive" });
});

test("tokens are renewed on the open connection, and a filter is obeyed", async () => {
  const { fake } = await setup({ tokenLife: 100_000, programs: ["p1", "p2"] }, { programs: ["p1"] });
  await vi.advanceTimersByTimeAsync(80_000);
  expect(fake.received.map((f) => f.type)).toEqual(["auth", "ping", "ping", "ping", "auth"]);
  expect(fake.received[0]).toMatchObject({ programs: ["p1"] });
  expect(fake.connections).toBe(1);
});
