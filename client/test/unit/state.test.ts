import { expect, test } from "vitest";
import { event, live, pass, settle, world } from "./world.js";

/** loader is a `state` whose calls the test ends. */
function loader() {
  const calls: { done: () => void; fail: (error: Error) => void }[] = [];
  const state = () => new Promise<void>((done, fail) => calls.push({ done, fail }));
  return { calls, state };
}

const gap = { type: "gap", programId: "p1", reason: "limit", before: "1050" };

test("state is loaded when the events begin; those that come meanwhile follow it", async () => {
  const w = world();
  const { calls, state } = loader();
  const p = w.relay.program("p1", { state });
  const seen: string[] = [];
  p.on("*", (e) => seen.push(e.id));
  await settle();
  expect(calls.length).toBe(0); // before `ready` an event could be missed by both
  const s = await w.live();
  s.message(event(1), event(2));
  expect([calls.length, seen, p.status.state]).toEqual([1, [], "loading"]);
  calls[0]?.done();
  await settle();
  expect([seen, p.status.state]).toEqual([["1", "2"], "live"]);
  s.message(event(3));
  expect(seen).toEqual(["1", "2", "3"]);
});

test("state is loaded again after a gap only, not after a reconnect", async () => {
  const w = world();
  const { calls, state } = loader();
  const p = w.relay.program("p1", { state });
  const seen: string[] = [];
  const gaps: string[] = [];
  p.on("*", (e) => seen.push(e.id));
  p.onGap((g) => gaps.push(g.reason));
  const s = await w.live(["p1"], "1000");
  calls[0]?.done();
  await settle();
  s.end(1012);
  await pass(500);
  const again = await w.live(["p1"], "1000");
  again.message(event(1));
  expect([calls.length, seen]).toEqual([1, ["1"]]);
  again.message(gap, event(51));
  expect([calls.length, seen, gaps]).toEqual([2, ["1"], ["limit"]]);
  calls[1]?.done();
  await settle();
  expect(seen).toEqual(["1", "51"]);
});

// Two calls at the same time may end in the wrong order: the older answer replaced the newer one, and the gap stayed.
test("a gap while state runs: it is called once more when it has ended, and what lay before the gap isn't handed out", async () => {
  const w = world();
  const { calls, state } = loader();
  const p = w.relay.program("p1", { state });
  const seen: string[] = [];
  p.on("*", (e) => seen.push(e.id));
  const s = await w.live();
  s.message(event(1), gap, event(51));
  expect(calls.length).toBe(1);
  calls[0]?.done();
  await settle();
  expect([calls.length, seen, p.status.state]).toEqual([2, [], "loading"]);
  s.message(event(52));
  calls[1]?.done();
  await settle();
  expect(seen).toEqual(["51", "52"]);
});

test("a state that throws is reported and tried again, with the events kept", async () => {
  const w = world();
  const { calls, state } = loader();
  const p = w.relay.program("p1", { state });
  const seen: string[] = [];
  p.on("*", (e) => seen.push(e.id));
  const s = await w.live();
  s.answers = true;
  s.message(event(1));
  for (const wait of [1000, 2000, 4000]) {
    calls.at(-1)?.fail(new Error("503"));
    const { length } = calls;
    await pass(wait - 1);
    expect(calls.length).toBe(length);
    await pass(1);
    expect(calls.length).toBe(length + 1);
  }
  calls.at(-1)?.done();
  await settle();
  expect(w.errors).toEqual([new Error("503"), new Error("503"), new Error("503")]);
  expect(seen).toEqual(["1"]);
});

// The wait before the next try ended with the connection, and the program loaded for ever.
test("a state that has failed is tried again when the user has logged in again", async () => {
  const w = world();
  const { calls, state } = loader();
  const p = w.relay.program("p1", { state });
  const seen: string[] = [];
  p.on("*", (e) => seen.push(e.id));
  const s = await w.live(["p1"], "1000");
  s.message(event(1));
  calls[0]?.fail(new Error("401"));
  await settle();
  s.end(4500);
  await pass(60_000);
  expect(calls.length).toBe(1);
  w.relay.reconnect();
  await w.live();
  calls[1]?.done();
  await settle();
  expect([seen, p.status.state]).toEqual([["1"], "live"]);
});

test("a membership lost while state runs: nothing is handed out; gained again: state is loaded anew", async () => {
  const w = world();
  const { calls, state } = loader();
  const p = w.relay.program("p1", { state });
  const seen: string[] = [];
  p.on("*", (e) => seen.push(e.id));
  const s = await w.live();
  s.message(event(1), { type: "left", programId: "p1", position: "1002" });
  expect(p.status.state).toBe("absent");
  s.message({ type: "joined", programId: "p1", position: "1003" }, event(4));
  calls[0]?.done();
  await settle();
  expect([calls.length, seen]).toEqual([2, []]);
  calls[1]?.done();
  await settle();
  expect([seen, p.status.state]).toEqual([["4"], "live"]);
});

test("a state that is given later is loaded at once; the same one isn't loaded twice", async () => {
  const w = world();
  const { calls, state } = loader();
  const p = w.relay.program("p1");
  await w.live();
  expect(p.status.state).toBe("live");
  w.relay.program("p1", { state });
  w.relay.program("p1", { state });
  w.relay.program("p1");
  expect([calls.length, p.status.state]).toEqual([1, "loading"]);
  calls[0]?.done();
  await settle();
  w.relay.program("p1", { state });
  expect([calls.length, p.status.state]).toEqual([1, "live"]);
});

test("a membership lost while state runs or waits for its next try: neither goes on", async () => {
  const w = world();
  const [one, two] = [loader(), loader()];
  const seen: string[] = [];
  w.relay.program("p1", { state: one.state }).on("*", (e) => seen.push(e.id));
  w.relay.program("p2", { state: two.state });
  const s = await w.live(["p1", "p2"]);
  s.message(event(1));
  two.calls[0]?.fail(new Error("503"));
  await settle();
  for (const programId of ["p1", "p2"]) s.message({ type: "left", programId, position: "1002" });
  one.calls[0]?.done();
  await pass(20_000);
  expect([seen, one.calls.length, two.calls.length]).toEqual([[], 1, 1]);
});

test("more than 10,000 events while state runs: it is called again instead of keeping more", async () => {
  const w = world();
  const { calls, state } = loader();
  const p = w.relay.program("p1", { state });
  const seen: string[] = [];
  p.on("*", (e) => seen.push(e.id));
  const s = await w.live();
  s.message(...Array.from({ length: 10_001 }, (_, i) => event(i + 1)), event(20_000));
  calls[0]?.done();
  await settle();
  expect([calls.length, seen]).toEqual([2, []]);
  calls[1]?.done();
  await settle();
  expect(seen).toEqual(["20000"]);
});

test("waitFor with state: not before the event has been applied", async () => {
  const w = world();
  const { calls, state } = loader();
  const p = w.relay.program("p1", { state });
  const order: string[] = [];
  p.on("*", (e) => order.push(`applied ${e.id}`));
  const s = await w.live();
  s.message(event(1));
  const waiting = p.waitFor(1).then(() => order.push("waited"));
  await settle();
  expect(order).toEqual([]);
  calls[0]?.done();
  await waiting;
  expect(order).toEqual(["applied 1", "waited"]);
});

// The write was in the gap: its event never came, although the state that was loaded after it showed it.
test("waitFor with state: a load that began after the write contains it", async () => {
  const w = world();
  const { calls, state } = loader();
  const p = w.relay.program("p1", { state });
  const s = await w.live();
  let waited = 0;
  p.waitFor(5).then(() => waited++);
  calls[0]?.done(); // began before the write
  await settle();
  expect(waited).toBe(0);
  s.message(gap, live());
  calls[1]?.done();
  await settle();
  expect(waited).toBe(1);
});

test("waitFor with state: an event that was handled before the load which is running", async () => {
  const w = world();
  const { calls, state } = loader();
  const p = w.relay.program("p1", { state });
  const s = await w.live();
  calls[0]?.done();
  await settle();
  s.message(event(1), gap);
  const waiting = p.waitFor(1);
  calls[1]?.done();
  await waiting;
});
