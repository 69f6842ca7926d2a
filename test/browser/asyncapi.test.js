// docs/asyncapi.json against the schema that AsyncAPI publishes, and real frames against docs/asyncapi.json.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { test } from "node:test";
import Ajv from "ajv";
import { WebSocket } from "ws";
import { startDev } from "./dev.js";
import { member } from "./member.js";

const require = createRequire(import.meta.url);
const document = JSON.parse(readFileSync(new URL("../../docs/asyncapi.json", import.meta.url), "utf8"));

test("the document is AsyncAPI 3", () => {
  const ajv = new Ajv({ strict: false, validateFormats: false });
  const valid = ajv.compile(require("@asyncapi/specs/schemas/3.0.0-without-$id.json"));
  assert.ok(valid(document), JSON.stringify(valid.errors, null, 1));
  const broken = structuredClone(document);
  broken.operations.toClient.action = "shout";
  assert.equal(valid(broken), false, "a broken one isn't");
});

test("what the server really sends is what the document says", async (t) => {
  const { url } = await startDev(t, { PING_INTERVAL: "1s" });
  const ann = await member(url, "u1");
  const ajv = new Ajv({ strict: false, validateFormats: false });
  ajv.addSchema(document, "doc");
  const check = (type) => ajv.compile({ $ref: `doc#/components/messages/${type}/payload` });
  const frames = new Map(); // type → frames of it

  const socket = new WebSocket(`${url.replace("http", "ws")}/ws`);
  const arrived = (wanted) => new Promise((resolve, reject) => {
    socket.addEventListener("message", function listen({ data }) {
      const frame = JSON.parse(data);
      frames.set(frame.type, [...(frames.get(frame.type) ?? []), frame]);
      if (!wanted(frame)) return;
      socket.removeEventListener("message", listen);
      resolve(frame);
    });
    socket.addEventListener("close", ({ code }) => reject(new Error(`closed with ${code}`)));
  });
  await new Promise((resolve) => socket.addEventListener("open", resolve));
  const hello = { type: "auth", token: ann.token, since: { p1: "1", p2: "9007199254740000" } }; // p2 from the future: a gap
  assert.ok(check("auth")(hello));
  socket.send(JSON.stringify(hello));
  await arrived((f) => f.type === "live");
  const { request } = await ann.post("/api/requests", { program: "p1", title: "x" });
  const path = `/api/requests/${request}`;
  const { id: comment } = await ann.post(`${path}/comments`, { body: "y" });
  const { id: file } = await ann.post(`${path}/attachments`, { name: "z.txt", size: 3 });
  await ann.post(`${path}/status`, { status: "done" });
  await ann.post(`${path}/assignee`, { user: "u2" });
  await ann.post(`${path}/assignee`, { user: "" });
  await ann.delete(`/api/comments/${comment}`);
  const done = arrived((f) => f.event === "attachment:deleted");
  await ann.delete(`/api/attachments/${file}`);
  await done;
  const gone = arrived((f) => f.type === "left");
  await ann.delete("/api/programs/p1/membership");
  await gone; // both in one batch would be a gap instead
  const back = arrived((f) => f.type === "joined");
  await ann.put("/api/programs/p1/membership");
  await back;
  await arrived((f) => f.type === "position");
  const pong = arrived((f) => f.type === "pong");
  socket.send(JSON.stringify({ type: "ping" }));
  await pong;
  const refused = arrived((f) => f.type === "error");
  socket.send(JSON.stringify({ type: "auth", token: "nonsense" }));
  await refused;

  assert.deepEqual([...frames.keys()].sort(), ["error", "event", "gap", "joined", "left", "live", "pong", "position", "ready"]);
  for (const [type, list] of frames) {
    const valid = check(type);
    for (const frame of list) assert.ok(valid(frame), `${JSON.stringify(frame)}: ${ajv.errorsText(valid.errors)}`);
  }
  const [event] = frames.get("event");
  const wrong = check("event");
  assert.equal(wrong({ ...event, position: 12 }), false, "a position that is a number isn't valid");
  assert.equal(wrong({ ...event, data: {} }), false, "data without what the catalog requires isn't valid");
});
