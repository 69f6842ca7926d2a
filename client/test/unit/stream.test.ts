import { expect, test, vi } from "vitest";
import { stream } from "../../src/stream.js";
import { event, settle, world } from "./world.js";

test("a loop gets all events in order and ends with close()", async () => {
  const w = world();
  const p = w.relay.program("p1");
  const s = await w.live();
  const seen: string[] = [];
  const loop = (async () => {
    for await (const e of p) {
      seen.push(e.id);
      await settle();
    }
  })();
  s.message(event(1), event(2), event(3));
  await settle();
  s.message(event(4));
  await settle();
  w.relay.close();
  await loop;
  expect(seen).toEqual(["1", "2", "3", "4"]);
});

test("a loop that is left takes nothing more; another one goes on", async () => {
  const w = world();
  const p = w.relay.program("p1");
  const s = await w.live();
  const first = (async () => {
    for await (const e of p) return e.id;
    return "";
  })();
  const second = p[Symbol.asyncIterator]();
  const next = second.next();
  s.message(event(1), event(2));
  expect(await first).toBe("1");
  expect((await next).value?.id).toBe("1");
  expect((await second.next()).value?.id).toBe("2");
  await second.return();
  expect(await second.next()).toEqual({ done: true, value: undefined });
});

test("a loop that falls behind gets 1,000 events, then an error: never an event after a hole", async () => {
  const w = world();
  const p = w.relay.program("p1");
  const s = await w.live();
  const events = p[Symbol.asyncIterator]();
  const first = events.next();
  s.message(event(1));
  await first;
  s.message(...Array.from({ length: 1001 }, (_, i) => event(i + 2)));
  const seen: string[] = [];
  await expect(
    (async () => {
      for await (const e of events) {
        seen.push(e.id);
        if (seen.length === 500) s.message(event(5000));
      }
    })(),
  ).rejects.toThrow("more than 1000 events behind");
  expect([seen.length, seen.at(-1)]).toEqual([1000, "1001"]);
});

test("a loop ends with an error when the server closes for good, also one that begins after that", async () => {
  const w = world();
  const p = w.relay.program("p1");
  const s = await w.live();
  const waiting = expect(p[Symbol.asyncIterator]().next()).rejects.toThrow("relay closed: 4503");
  s.end(4503);
  await waiting;
  await expect(p[Symbol.asyncIterator]().next()).rejects.toThrow("relay closed: 4503");
});

test("a loop that is left takes itself off", async () => {
  const off = vi.fn();
  for await (const n of stream<number>((take) => {
    take(1);
    return off;
  }))
    if (n === 1) break;
  expect(off).toHaveBeenCalledOnce();
});

// The generator subscribed at its first next(): what came before was missed.
test("an iterator gets the events from its making on", async () => {
  const w = world();
  const s = await w.live();
  const events = w.relay.program("p1")[Symbol.asyncIterator]();
  s.message(event(1), event(2));
  const ids = [await events.next(), await events.next()].map(({ value }) => value?.id);
  expect(ids).toEqual(["1", "2"]);
});

// return() waited behind the pending next() for an event that might never come.
test("return() ends all next() that are pending, and takes the iterator off at once", async () => {
  const off = vi.fn();
  const events = stream<number>(() => off);
  const pending = [events.next(), events.next()];
  const left = events.return();
  expect(off).toHaveBeenCalledOnce();
  expect(await Promise.all([...pending, left, events.next()])).toEqual(Array(4).fill({ done: true, value: undefined }));
  expect(off).toHaveBeenCalledOnce();
});

test.each(["return", "throw"] as const)("%s() before the first next() takes the iterator off", async (how) => {
  const off = vi.fn();
  const events = stream<number>(() => off);
  await events[how](undefined).catch(() => {});
  expect(off).toHaveBeenCalledOnce();
  expect((await events.next()).done).toBe(true);
});

test("an iterator that nobody reads keeps 1,000 events, then takes itself off", async () => {
  const off = vi.fn();
  let take: (n: number) => void = () => {};
  const events = stream<number>((to) => {
    take = to;
    return off;
  });
  for (let n = 1; n <= 1002; n++) take(n);
  expect(off).toHaveBeenCalledOnce();
  for (let n = 1; n <= 1000; n++) expect((await events.next()).value).toBe(n);
  await expect(events.next()).rejects.toThrow("more than 1000 events behind");
});

test("an iterator that has ended while it was made takes itself off", () => {
  const off = vi.fn();
  stream<number>((_, end) => {
    end(new Error("closed"));
    return off;
  });
  expect(off).toHaveBeenCalledOnce();
});
