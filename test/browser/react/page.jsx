// A page that shows a program with useProgram in StrictMode: React mounts each component twice.
import { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import { connect } from "../../../client/src/index.ts";
import { useProgram } from "../../../client/src/react.ts";

const { ws } = document.body.dataset;
const relay = connect(ws, { token: async () => (await fetch("/token")).text() });

function Events({ id }) {
  const { events, status } = useProgram(relay, id);
  return (
    <section data-testid={`show-${id}`} data-state={status.state}>
      <ol>{events.map((e) => <li key={e.position}>{e.data.title}</li>)}</ol>
    </section>
  );
}

function Page() {
  const [shown, show] = useState(true);
  return (
    <>
      <button data-testid="toggle" onClick={() => show(!shown)}>{shown ? "Hide" : "Show"}</button>
      {shown && <Events id="p1" />}
      <Events id="p2" />
    </>
  );
}

createRoot(document.getElementById("root")).render(<StrictMode><Page /></StrictMode>);
