// What the compiler says about the catalogs: that of this repository, and an application's own, which internal/catalog generates in its
// tests. Nothing here runs; `tsc` fails when one of the lines that must be wrong isn't.
import type { Catalog as Orders } from "../../../internal/catalog/testdata/orders.js";
import { type Catalog, connect, type EventName, type Person, type RelayEvent } from "../../src/index.js";

const token = () => "";

export function own() {
  const relay = connect<Orders>("wss://example.com/ws", { token });
  const program = relay.program("p1");
  program.on("order:placed", ({ data }) => {
    const amount: number = data.total.amount;
    const note: string | null | undefined = data.note;
    // @ts-expect-error: `lines` is a list
    data.lines.sku;
    // @ts-expect-error: no such field
    data.price;
    return [amount, note, data["gift-wrap"], data.lines.map((line) => line.count)];
  });
  program.on("order:sent_out", ({ data }) => {
    // @ts-expect-error: not one of the two
    return data.carrier === "ship";
  });
  // @ts-expect-error: not in this catalog
  program.on("request:created", () => {});
  program.on("*", (event) =>
    event.event === "order:sent_out" ? event.data.carrier : event.event === "order:placed" ? event.data.total : undefined,
  );
}

export function standard(event: RelayEvent<Catalog, "request:assigned">) {
  const name: EventName = event.event;
  const who: Person | null = event.data.assignee;
  // @ts-expect-error: it may be nobody
  event.data.assignee.name;
  connect("/ws", { token })
    .program("p1")
    // @ts-expect-error: misspelt
    .on("request:create", () => {});
  return [name, who];
}
