// What the compiler must accept and refuse; `npm run typecheck` looks at it.

import { expectTypeOf, test } from "vitest";
import { connect, type Options, type Relay, type RelayEvent } from "../../src/index.js";
import { useProgram } from "../../src/react.js";
import { fakeRelay } from "../../src/testing.js";

interface Mine {
  "invoice:paid": { amount: number };
  "invoice:sent": { to: string };
}

declare const relay: Relay<Mine>;

test("a catalog of one's own types handlers, loops, the hook and the fake", () => {
  expectTypeOf(connect<Mine>).returns.toEqualTypeOf<Relay<Mine>>();
  expectTypeOf<RelayEvent<Mine, "invoice:sent">["data"]>().toEqualTypeOf<{ to: string }>();
  (() => {
    const p = relay.program("p1");
    p.on("invoice:paid", (e) => expectTypeOf(e.data.amount).toBeNumber());
    p.on("*", (e) => {
      if (e.event === "invoice:sent") expectTypeOf(e.data.to).toBeString();
    });
    // @ts-expect-error no such event
    p.on("invoice:lost", () => {});
    // @ts-expect-error data of another event
    p.on("invoice:paid", (e) => e.data.to);
    expectTypeOf(useProgram(relay, "p1").events).toEqualTypeOf<readonly RelayEvent<Mine>[]>();
    fakeRelay<Mine>().emit("p1", "invoice:paid", { amount: 1 });
    // @ts-expect-error data of another event
    fakeRelay<Mine>().emit("p1", "invoice:paid", { to: "x" });
  }) satisfies () => void;
});

test("without one, the eight events have data of unknown fields", () => {
  expectTypeOf((options: Options) => connect("/ws", options)).returns.toEqualTypeOf<Relay>();
  expectTypeOf<RelayEvent["event"]>().extract<"comment:added">().toEqualTypeOf<"comment:added">();
});
