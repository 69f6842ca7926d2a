import { expect, test, vi } from "vitest";
import type { Gap } from "../../src/index.js";
import { environment } from "../../src/options.js";
import { program } from "../../src/program.js";
import { event, live, pass, ready, settle, start, world } from "./world.js";

test("events arrive in order, by name, and each handler is independent", async () => {
  const w = world();
  const p = w.relay.program("p1");
  const seen: string[] = [];
  p.on("request:created", (e) => seen.push(`created ${e.id}`));
  const off = p.on("*", (e) => seen.push(`any ${e.id} ${e.event}`));
  const s = await w.live();
  s.message(event(1), event(2, { event: "comment:added" }));
  off();
  s.message(event(3));
  expect(seen).toEqual(["created 1", "any 1 request:created", "any 2 comment:added", "created 3"]);
});

test("an exception or a rejection in one handler is reported and hurts nobody", async () => {
  const w = world({
    onError: (error) => {
      errors.push(error);
      throw new Error("and so does this one");
    },
  });
  const errors: unknown[] = [];
  const p = w.relay.program("p1");
  const seen: string[] = [];
  p.on("*", () => {
    throw new Error("thrown");
  });
  p.on("*", async () => {
    throw new Error("rejected");
  });
  p.on("*", (e) => seen.push(e.id));
  p.onGap(() => {
    throw new Error("gap");
  });
  p.onStatus(() => {
    throw new Error("status");
  });
  const s = await w.live();
  s.message(event(1), { type: "gap", programId: "p1", reason: "limit", before: "1005" }, event(6));
  await settle();
  expect(seen).toEqual(["1", "6"]);
  expect(new Set(errors.map((e) => (e as Error).message))).toEqual(new Set(["thrown", "rejected", "gap", "status"]));
  expect(w.relay.status.state).toBe("live");
});

test("without onError, errors go to reportError, or to the console where there is none", async () => {
  const reported = vi.fn();
  const logged = vi.spyOn(console, "error").mockImplementation(() => {});
  const w = world({ onError: undefined as never });
  w.relay.program("p1").on("*", () => {
    throw new Error("thrown");
  });
  const s = await w.live();
  s.message(event(1));
  expect(logged).toHaveBeenCalledWith(new Error("thrown"));
  vi.stubGlobal("reportError", reported);
  s.message(event(2));
  expect(reported).toHaveBeenCalledWith(new Error("thrown"));
  logged.mockRestore();
});

test("the same handler twice is called twice; one that is taken off while events are handed out isn't called", async () => {
  const w = world();
  const p = w.relay.program("p1");
  const seen: string[] = [];
  const handler = (e: { id: string }) => seen.push(e.id);
  p.on("*", () => off());
  const off = p.on("*", handler);
  p.on("*", handler);
  const reasons: string[] = [];
  const onGap = (gap: Gap) => reasons.push(gap.reason);
  p.onGap(onGap);
  p.onGap(onGap)();
  const s = await w.live();
  s.message(event(1), { type: "gap", programId: "p1", reason: "limit", before: "1005" });
  expect([seen, reasons]).toEqual([["1"], ["limit"]]);
});

test("program() returns the same object", () => {
  const w = world();
  expect(w.relay.program("p1")).toBe(w.relay.program("p1"));
});

test("a program that isn't one's own says so, and comes alive with a membership", async () => {
  const w = world();
  const states: string[] = [];
  const gaps: Gap[] = [];
  const p = w.relay.program("p2");
  p.onStatus((s) => states.push(s.state));
  p.onGap((g) => gaps.push(g));
  const s = await w.live(["p1"]);
  expect(p.status).toEqual({ state: "absent" });
  s.message({ type: "joined", programId: "p2", position: "2000" });
  s.message({ type: "left", programId: "p2", position: "2100" });
  expect(states).toEqual(["connecting", "absent", "live", "absent"]);
  expect(gaps).toEqual([{ type: "gap", programId: "p2", reason: "membership" }]);
  expect(w.relay.programs).toEqual(["p1"]);
});

test("a program that is asked for when the connection stands knows at once what it is", async () => {
  const w = world();
  await w.live(["p1"]);
  expect(w.relay.program("p1").status.state).toBe("live");
  expect(w.relay.program("p2").status.state).toBe("absent");
});

// Until the server knew of it the program was said to be nobody's.
test("a program that is added to the filter is connecting, not absent, until the server has said", async () => {
  const w = world({ programs: [] });
  await w.live([]);
  const states = new Set<string>();
  w.relay.program("p2").onStatus((s) => states.add(s.state));
  await settle();
  await w.live(["p2"]);
  expect([...states]).toEqual(["connecting", "live"]);
});

test("programs: told at each change; one that is asked for in that moment misses nothing", async () => {
  const w = world();
  const seen: string[] = [];
  const lists: string[] = [];
  w.relay.onStatus(() => {
    lists.push(w.relay.programs.join());
    if (w.relay.programs.includes("p2") && !seen.length) w.relay.program("p2").on("*", (e) => seen.push(e.id));
  });
  const s = await w.live(["p1"]);
  s.message({ type: "joined", programId: "p2", position: "2000" }, event(2001, { programId: "p2", position: "2001" }));
  s.message({ type: "left", programId: "p1", position: "2002" });
  expect(seen).toEqual(["2001"]);
  expect([...new Set(lists)]).toEqual(["", "p1", "p1,p2", "p2"]);
});

test("a membership that was lost while away shows after the reconnect", async () => {
  const w = world();
  const p = w.relay.program("p1");
  await w.live(["p1", "p2"]);
  w.socket().end(1012);
  expect(p.status.state).toBe("waiting");
  await pass(500);
  await w.live(["p2"]);
  expect(p.status.state).toBe("absent");
});

test("a gap is told; the closed and waiting states of the connection show in the program", async () => {
  const w = world();
  const p = w.relay.program("p1");
  const gaps: Gap[] = [];
  p.onGap((g) => gaps.push(g));
  const s = await w.live();
  const gap = { type: "gap", programId: "p1", reason: "limit", after: "1001", before: "1051" };
  s.message(gap);
  expect(gaps).toEqual([gap]);
  s.end(1012);
  expect(p.status).toEqual({ state: "waiting", retryAt: start + 500, code: 1012 });
  w.relay.close();
  expect(p.status).toEqual({ state: "closed", code: 1000, reason: "closed" });
});

test("waitFor: an event that comes, one that has come, one that doesn't", async () => {
  const w = world();
  const p = w.relay.program("p1");
  const order: string[] = [];
  const s = await w.live();
  const coming = p.waitFor(7n).then(() => order.push("waited"));
  p.on("*", () => order.push("handled"));
  s.message(event(7));
  await coming;
  expect(order).toEqual(["handled", "waited"]);
  await p.waitFor(7);
  const missing = expect(p.waitFor("8", { timeout: 3000 })).rejects.toThrow("event 8 hasn't come in 3000 ms");
  await pass(3000);
  await missing;
});

test("waitFor: rejects when the relay is closed, and when it was", async () => {
  const w = world();
  const p = w.relay.program("p1");
  const s = await w.live();
  const waiting = expect(p.waitFor("9")).rejects.toThrow("relay closed: 4503");
  s.end(4503);
  await waiting;
  await expect(p.waitFor("9")).rejects.toThrow("relay closed: 4503");
  expect(vi.getTimerCount()).toBe(0);
});

// The first writes after a lossy failover get ids that were known already: waitFor resolved before their events had come.
test.each(["reset", "unknown_position"])("waitFor: an id that is handed out again after a gap (%s)", async (reason) => {
  const w = world();
  const p = w.relay.program("p1");
  const s = await w.live(["p1", "p2"]);
  s.message(event(7), event(8), event(9, { programId: "p2" }));
  s.message({ type: "gap", programId: "p1", reason, before: "5000" });
  let waited = 0;
  p.waitFor(7).then(() => waited++);
  await settle();
  expect(waited).toBe(0);
  s.message(event(7, { position: "5000", timestamp: "2026-01-02T00:00:00Z" }));
  await settle();
  expect(waited).toBe(1);
  s.message(event(8, { position: "5001" })); // the one that is known: it has survived
  await p.waitFor(8);
  await p.waitFor(9); // of a program without a gap
});

// The listeners that were added after the one that rejects were never taken off.
test("waitFor: leaves no listener on a relay that was closed", async () => {
  const { call, ...env } = environment({ token: () => "t" });
  const calls = vi.fn(call);
  const p = program("p1", { ...env, call: calls as typeof call }, () => false);
  p.relay({ state: "closed", code: 1000, reason: "closed" });
  await expect(p.handle.waitFor("1")).rejects.toThrow("relay closed: 1000");
  calls.mockClear();
  p.relay({ state: "live", userId: "u1", role: "member" });
  p.load(() => {});
  p.member(true, true);
  await Promise.resolve();
  p.event(event(1) as never);
  expect(p.handle.status.state).toBe("live");
  expect(calls).not.toHaveBeenCalled();
});

test("resume: everything that was missed comes once, after a reconnect by its position", async () => {
  const w = world();
  const seen: string[] = [];
  w.relay.program("p1").on("*", (e) => seen.push(e.id));
  let s = await w.live(["p1"], "1000");
  s.message(event(1), event(2));
  s.end(1006);
  await pass(500);
  s = w.socket();
  s.open();
  expect(s.sent[0]?.since).toEqual({ "*": "1000", p1: "1002" });
  s.message(ready(["p1"]), event(2), event(3), live("1003"));
  expect(seen).toEqual(["1", "2", "3"]);
});
