// @vitest-environment happy-dom
import { act, StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { renderToString } from "react-dom/server";
import { expect, test, vi } from "vitest";
import { connect, type Relay } from "../../src/index.js";
import { useProgram } from "../../src/react.js";
import { fakeRelay } from "../../src/testing.js";

Object.assign(globalThis, { IS_REACT_ACT_ENVIRONMENT: true });

type Numbers = { "request:created": { n: number } };

let renders = 0;

function List({ relay, id }: { relay: Relay<Numbers>; id: string }) {
  const { events, status } = useProgram(relay, id);
  renders++;
  return (
    <p>
      {status.state}: {events.map((e) => e.data.n).join()}
    </p>
  );
}

function setup() {
  const fake = fakeRelay<Numbers>({ programs: ["p1", "p2"] });
  const relay = connect<Numbers>("ws://fake/ws", { token: () => "t", WebSocket: fake.WebSocket });
  const root = createRoot(document.body.appendChild(document.createElement("div")));
  return { fake, relay, root };
}

const text = () => [...document.querySelectorAll("p")].map((p) => p.textContent);

test("useProgram shows status and events, each once, in StrictMode", async () => {
  const { fake, relay, root } = setup();
  await act(async () =>
    root.render(
      <StrictMode>
        {[<List relay={relay} key="a" id="p1" />, <List relay={relay} key="b" id="p1" />, <List relay={relay} key="c" id="p2" />]}
      </StrictMode>,
    ),
  );
  await act(() => fake.connected());
  expect(text()).toEqual(["live: ", "live: ", "live: "]);
  act(() => {
    fake.emit("p1", "request:created", { n: 1 });
    fake.emit("p1", "request:created", { n: 2 });
    fake.emit("p2", "request:created", { n: 3 });
  });
  expect(text()).toEqual(["live: 1,2", "live: 1,2", "live: 3"]);
  act(() => fake.kick("p1"));
  expect(text()).toEqual(["absent: 1,2", "absent: 1,2", "live: 3"]);
  act(() => root.unmount());
  relay.close();
});

test("useProgram begins anew for another program, and after all have gone", async () => {
  const { fake, relay, root } = setup();
  await act(async () => root.render(<List relay={relay} id="p1" />));
  await act(() => fake.connected());
  act(() => void fake.emit("p1", "request:created", { n: 1 }));
  act(() => root.render(<List relay={relay} id="p2" />));
  expect(text()).toEqual(["live: "]);
  act(() => void fake.emit("p1", "request:created", { n: 2 }));
  act(() => root.render(<List relay={relay} id="p1" />));
  expect(text()).toEqual(["live: "]);
  act(() => root.unmount());
  relay.close();
});

// The old list, which misses what came while nobody looked, was drawn until the new one began.
test("useProgram never draws the list of those that have gone", async () => {
  const { fake, relay, root } = setup();
  const drawn: number[] = [];
  function Count() {
    drawn.push(useProgram(relay, "p1").events.length);
    return null;
  }
  await act(async () => root.render(<Count key="a" />));
  await act(() => fake.connected());
  act(() => void fake.emit("p1", "request:created", { n: 1 }));
  expect(drawn.at(-1)).toBe(1);
  act(() => root.render(null));
  drawn.length = 0;
  act(() => root.render(<Count key="b" />));
  expect(new Set(drawn)).toEqual(new Set([0]));
  act(() => root.unmount());
  relay.close();
});

test("useProgram renders once per change, and not for others' events", async () => {
  const { fake, relay, root } = setup();
  await act(async () => root.render(<List relay={relay} id="p1" />));
  await act(() => fake.connected());
  const before = renders;
  act(() => void fake.emit("p2", "request:created", { n: 1 }));
  expect(renders).toBe(before);
  act(() => void fake.emit("p1", "request:created", { n: 1 }));
  expect(renders).toBe(before + 1);
  act(() => root.unmount());
  relay.close();
});

test("useProgram keeps the newest 1,000 events", async () => {
  const { fake, relay, root } = setup();
  await act(async () => root.render(<List relay={relay} id="p1" />));
  await act(() => fake.connected());
  act(() => {
    for (let n = 1; n <= 1001; n++) fake.emit("p1", "request:created", { n });
  });
  expect(text()[0]?.split(",").length).toBe(1000);
  expect(text()[0]).toMatch(/^live: 2,.*,1001$/);
  act(() => root.unmount());
  relay.close();
});

test("useProgram renders on a server", () => {
  const { relay } = setup();
  const complaints = vi.spyOn(console, "error");
  expect(renderToString(<List relay={relay} id="p1" />)).toContain("connecting");
  expect(complaints).not.toHaveBeenCalled();
  relay.close();
});
