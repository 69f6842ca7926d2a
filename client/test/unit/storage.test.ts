import { expect, test, vi } from "vitest";
import { positionStore } from "../../src/storage.js";
import { event, settle, world } from "./world.js";

class Area {
  items = new Map<string, string>();
  getItem(key: string) {
    return this.items.get(key) ?? null;
  }
  setItem(key: string, value: string) {
    this.items.set(key, value);
  }
}

test("a new page goes on where the old one was, for the same user", async () => {
  const area = new Area();
  const before = world({ storage: positionStore("u1", area) });
  const s = await before.live(["p1"], "1000");
  s.message(event(1));
  before.relay.close();
  for (const [user, since] of [
    ["u1", { "*": "1000", p1: "1001" }],
    ["u2", {}],
  ] as const) {
    const after = world({ storage: positionStore(user, area) });
    await settle();
    after.socket().open();
    expect(after.socket().sent[0]?.since).toEqual(since);
    after.relay.close();
  }
});

test("what was saved by one without a filter counts for those in the filter", async () => {
  const w = world({ programs: ["p1"], storage: { load: () => ({ "*": "1000" }), save: () => {} } });
  await settle();
  w.socket().open();
  expect(w.socket().sent[0]?.since).toEqual({ "*": "1000" });
});

// All of them were sent: beyond 64 KiB the server closed for good (1009), after each reload again.
test("with a filter, what is stored of other programs is kept and isn't sent", async () => {
  const others = Object.fromEntries(Array.from({ length: 3000 }, (_, i) => [`${i}`.padStart(36, "p"), "1764000000000000"]));
  const save = vi.fn();
  const w = world({ programs: ["p1", "p2"], storage: { load: () => ({ ...others, p1: "1000" }), save } });
  const s = await w.live(["p1", "p2"], "2000");
  expect(s.sent[0]?.since).toEqual({ p1: "1000" });
  expect(save).toHaveBeenLastCalledWith({ ...others, p1: "2000", p2: "2000" });
});

test("saved are positions whose events have been handled", async () => {
  const saved: Record<string, string>[] = [];
  const handled: string[] = [];
  const w = world({
    storage: {
      load: () => undefined,
      save: (positions) => {
        saved.push(positions);
        expect(positions.p1).toBe(handled.at(-1));
      },
    },
  });
  w.relay.program("p1").on("*", (e) => handled.push(e.position));
  const s = await w.live();
  s.message(event(1), event(2));
  expect(saved.at(-1)).toEqual({ p1: "1002" });
  expect(w.errors).toEqual([]);
});

test("sessionStorage is the default; without storage, with a full one or with rubbish in it nothing is kept", () => {
  const area = new Area();
  vi.stubGlobal("sessionStorage", area);
  positionStore("u1").save({ p1: "1" });
  expect(positionStore("u1").load()).toEqual({ p1: "1" });
  for (const rubbish of ["", "{", "7", "null", '"1"']) {
    area.setItem("outbox-relay:u1", rubbish);
    expect(positionStore("u1").load()).toBeUndefined();
  }
  area.setItem("outbox-relay:u1", '{"p1":"1","p2":"x","p3":4}');
  expect(positionStore("u1").load()).toEqual({ p1: "1" });
  vi.stubGlobal("sessionStorage", undefined);
  positionStore("u1").save({ p1: "1" });
  expect(positionStore("u1").load()).toBeUndefined();
});

test("a store that throws is reported, and the events flow on", async () => {
  const w = world({
    storage: {
      load: () => undefined,
      save() {
        throw new Error("full");
      },
    },
  });
  const s = await w.live();
  s.message(event(1));
  expect(w.errors).toContainEqual(new Error("full"));
  expect(w.relay.status.state).toBe("live");
});
