import { expect, test } from "vitest";
import { positions } from "../../src/positions.js";
import { event, pass, ready, settle, world } from "./world.js";

const of = (n: number, more: object = {}) => event(n, more) as never;

test("repeats: by position, as whole numbers of any length", () => {
  const p = positions();
  expect(p.take(of(1, { position: "999" }))).toBe(true);
  expect(p.take(of(2, { position: "1000" }))).toBe(true);
  expect(p.take(of(3, { position: "999" }))).toBe(false);
  expect(p.take(of(4, { position: "1000" }))).toBe(false);
  expect(p.take(of(5, { position: "99999999999999999998" }))).toBe(true);
  expect(p.take(of(6, { position: "99999999999999999999" }))).toBe(true);
  expect(p.all()).toEqual({ p1: "99999999999999999999" });
});

// After a failover that lost data ids are handed out again: by the id alone new events were taken for old ones.
test("repeats: by id and timestamp together, never by id alone", () => {
  const p = positions();
  expect(p.take(of(1))).toBe(true);
  expect(p.take(of(1, { position: "5000" }))).toBe(false);
  expect(p.take(of(1, { position: "5001", timestamp: "2026-01-02T00:00:00Z" }))).toBe(true);
});

test("repeats: the last thousand are remembered, no more", () => {
  const p = positions();
  for (let n = 1; n <= 1001; n++) p.take(of(n));
  expect(p.saw("1")).toBe(false);
  expect(p.saw("2")).toBe(true);
  expect(p.take(of(2, { position: "9000" }))).toBe(false);
  expect(p.take(of(1, { position: "9001" }))).toBe(true);
});

test("checkpoint: stands for all programs at or below it", () => {
  const p = positions();
  p.take(of(1, { programId: "a", position: "10" }));
  p.take(of(2, { programId: "b", position: "30" }));
  p.checkpoint("20");
  expect(p.all()).toEqual({ b: "30", "*": "20" });
  expect([p.knows("a"), p.knows("new")]).toEqual([true, true]);
});

test("checkpoint: with a filter it is noted for the programs in it only", () => {
  const p = positions({ "*": "5", a: "30" });
  p.checkpoint("20", ["a", "b"]);
  expect(p.all()).toEqual({ a: "30", b: "20" });
  expect(p.knows("new")).toBe(false);
});

test("a program joined below the checkpoint keeps its own position", async () => {
  const w = world();
  const seen: string[] = [];
  w.relay.program("p2").on("*", (e) => seen.push(e.id));
  const s = await w.live(["p1"], "5000");
  s.message(
    { type: "joined", programId: "p2", position: "900" },
    { type: "joined", programId: "p3", position: "950" },
    event(1, { programId: "p2", position: "901" }),
  );
  s.end(1006);
  await pass(500);
  w.socket().open();
  expect(w.socket().sent[0]?.since).toEqual({ "*": "5000", p2: "901", p3: "950" });
  expect(seen).toEqual(["1"]);
});

test("a gap moves the position, also back; left forgets it", async () => {
  const w = world();
  const seen: string[] = [];
  w.relay.program("p1").on("*", (e) => seen.push(e.id));
  const s = await w.live(["p1", "p2"]);
  s.message(event(1, { position: "9000" }));
  s.message({ type: "gap", programId: "p1", reason: "unknown_position", before: "2000" });
  s.message(event(2, { position: "2000" }), event(3, { programId: "p2", position: "2001" }));
  s.message({ type: "left", programId: "p2", position: "2002" });
  s.end(1006);
  await pass(500);
  w.socket().open();
  expect(w.socket().sent[0]?.since).toEqual({ p1: "2000" });
  expect(seen).toEqual(["1", "2"]);
});

// Without a checkpoint a program without an event had no position, so that what was missed had no name.
test("a program that can't be resumed is told of a gap", async () => {
  const w = world();
  const gaps: string[] = [];
  for (const id of ["p1", "p2"]) w.relay.program(id).onGap((g) => gaps.push(`${g.programId} ${g.reason}`));
  const s = await w.live(["p1", "p2"]);
  s.message(event(1));
  s.end(1006);
  await pass(500);
  await w.live(["p1", "p2"]);
  expect(gaps).toEqual(["p2 unknown_position"]);
});

/** many is n programs with names of 36 characters, and an event of each; the first is the oldest. */
const many = (n: number) => {
  const programs = Array.from({ length: n }, (_, i) => `${i}`.padStart(36, "p"));
  return { programs, events: programs.map((programId, i) => event(i, { programId, position: `${1_764_000_000_000_000 + i}` })) };
};

// Without checkpoints there was a position for every program, and a frame that the server refuses for good.
test("more positions than fit: the newest are named, the smallest stands for the others", () => {
  const { programs, events } = many(3000);
  const p = positions();
  for (const e of events) p.take(e as never);
  const since = p.since();
  expect(new TextEncoder().encode(JSON.stringify(since)).length).toBeLessThanOrEqual(32 << 10);
  expect(since["*"]).toBe(events[0]?.position);
  const named = Object.keys(since).length - 1;
  expect(named).toBeGreaterThan(200);
  for (const e of events.slice(-named)) expect(since[e.programId]).toBe(e.position);
  expect(Object.keys(p.all())).toEqual(programs);
  expect(events.some((e) => p.take({ ...e, id: "0", timestamp: "" } as never))).toBe(false);
});

test("more positions than fit: a checkpoint isn't lost, nor what lies below it", () => {
  const p = positions();
  p.checkpoint("1764000000000000");
  for (const e of many(3000).events.slice(1)) p.take(e as never);
  p.at.set("joined", "1763999999999999");
  expect(p.since()["*"]).toBe("1763999999999999");
  expect(p.take(of(1, { programId: "quiet", position: "1764000000000000" }))).toBe(false);
  expect(p.take(of(1, { programId: "quiet", position: "1764000000000001" }))).toBe(true);
});

test("positions that fit are sent as they are, however large", () => {
  expect(positions().since()).toEqual({});
  expect(positions({ a: "2", "*": "3" }).since()).toEqual({ a: "2", "*": "3" });
  expect(positions({ a: "9".repeat(70_000) }).since()).toEqual({ "*": "9".repeat(70_000) });
});

test("more positions than fit: what is sent again reaches no handler, what is new does", async () => {
  const { programs, events } = many(3000);
  const [old = "", other = ""] = programs;
  const w = world();
  const seen: string[] = [];
  const gaps: string[] = [];
  for (const id of [old, other, "quiet"]) {
    w.relay.program(id).on("*", (e) => seen.push(`${e.programId} ${e.id}`));
    w.relay.program(id).onGap((g) => gaps.push(`${g.programId} ${g.reason}`));
  }
  const member = [...programs, "quiet"];
  const first = await w.live(member);
  const more = [5000, 5001].map((n) => event(n, { programId: other, position: `176400000000${n}` }));
  first.message(...events.slice(0, 2), ...more, ...events.slice(2));
  seen.length = 0;
  first.end(1006);
  await pass(500);
  const s = w.socket();
  s.open();
  expect(JSON.stringify(s.sent[0]).length).toBeLessThan(64 << 10);
  expect(s.sent[0]?.since).not.toHaveProperty(old);
  const gap = (programId: string, before: string) => ({ type: "gap", programId, reason: "limit", after: s.sent[0]?.since["*"], before });
  s.message(
    ready(member),
    gap(other, `${more[0]?.position}`), // an event that has been seen
    ...more,
    event(5002, { programId: other, position: "1764000000005002" }),
    gap(old, "1764000000006000"), // beyond what has been seen
    event(6000, { programId: old, position: "1764000000006000" }),
  );
  expect(seen).toEqual([`${other} 5002`, `${old} 6000`]);
  expect(gaps).toEqual(["quiet unknown_position", `${old} limit`]);
});

test("a gap: one that lies in what has been received is none, unless it is about another history", () => {
  const p = positions({ a: "100" });
  const gap = (reason: string, before: string) => p.gap({ type: "gap", programId: "a", reason, before } as never);
  for (const reason of ["limit", "expired", "membership"]) expect(gap(reason, "100")).toBe(false);
  expect(p.all()).toEqual({ a: "100" });
  expect(gap("membership", "101")).toBe(true);
  expect(gap("reset", "90")).toBe(true);
  expect(gap("unknown_position", "80")).toBe(true);
  expect(p.all()).toEqual({ a: "79" });
});

test("filter: only these programs are asked for", async () => {
  const w = world({ programs: ["p1"] });
  w.relay.program("p2");
  await settle();
  w.socket().open();
  expect(w.socket().sent[0]).toMatchObject({ programs: ["p1", "p2"], since: {} });
});

test("filter: all positions are sent, for a program that is added later would not begin live", async () => {
  const { programs, events } = many(800);
  const w = world({ programs });
  const s = await w.live(programs);
  s.message(...events);
  w.relay.program("new");
  await settle();
  w.socket().open();
  expect(Object.keys(w.socket().sent[0]?.since)).toEqual(programs);
});

test("filter: programs that are added later make one reconnect, which loses nothing and starts them live", async () => {
  const w = world({ programs: ["p1"] });
  const s = await w.live(["p1"], "1500");
  expect(s.sent[0]?.programs).toEqual(["p1"]);
  s.message(event(1, { position: "1600" }));
  const p2 = w.relay.program("p2");
  w.relay.program("p3");
  w.relay.program("p1");
  await settle();
  expect(w.sockets.length).toBe(2);
  expect(s.closed).toBe(true);
  w.socket().open();
  expect(w.socket().sent[0]).toMatchObject({ programs: ["p1", "p2", "p3"], since: { p1: "1600" } });
  w.socket().message(ready(["p1", "p2"]), { type: "live", position: "1700" });
  expect([p2.status.state, w.relay.program("p3").status.state]).toEqual(["live", "absent"]);
  w.socket().end(1006);
  await pass(500);
  w.socket().open();
  expect(w.socket().sent[0]?.since).toEqual({ p1: "1700", p2: "1700", p3: "1700" });
});

test("filter: a program that is added before the connection stands needs no second one", async () => {
  const w = world({ programs: [] });
  await settle();
  w.relay.program("p1");
  await w.live(["p1"]);
  expect(w.sockets.length).toBe(1);
});

test("filter: a program that is added while waiting for the next try doesn't hasten it", async () => {
  const w = world({ programs: ["p1"] });
  const s = await w.live(["p1"]);
  s.end(1013);
  w.relay.program("p2");
  await settle();
  expect(w.sockets.length).toBe(1);
  await pass(500);
  w.socket().open();
  expect(w.socket().sent[0]?.programs).toEqual(["p1", "p2"]);
});

test("filter: a program that is added between auth and ready isn't taken for somebody else's", async () => {
  const w = world({ programs: ["p1"] });
  await settle();
  w.socket().open();
  const p2 = w.relay.program("p2");
  await settle();
  expect(w.sockets.length).toBe(2);
  await w.live(["p1", "p2"]);
  expect(p2.status.state).toBe("live");
});
