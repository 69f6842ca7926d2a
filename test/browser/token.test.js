// Tokens that expire: renewed in time by a page that is awake, and got anew by one that slept.
import assert from "node:assert/strict";
import { test } from "node:test";
import { metric, startDev } from "./dev.js";
import { member } from "./member.js";
import { connected, eventOf, launch, signIn } from "./window.js";

const expired = 'outbox_relay_ws_closes_total{code="4001"}';
const asked = (page) => page.waitForRequest((r) => r.url().endsWith("/demo/token"));

test("a token that expires while the page sleeps", async (t) => {
  const { url, admin } = await startDev(t, { JWT_LEEWAY: "0s" });
  const browser = await launch(t);
  const ann = await member(url, "u1");
  const ben = await signIn(t, browser, url, "u2", { query: "?token=6" });
  const devtools = await ben.context().newCDPSession(ben);
  await devtools.send("Debugger.enable");
  await devtools.send("Debugger.pause"); // as a laptop that is shut: no timer runs, no message is handled
  await metric(admin, expired, 1);
  const { request } = await ann.post("/api/requests", { program: "p1", title: "While Ben slept" });
  const renewed = asked(ben);
  await devtools.send("Debugger.resume");
  await renewed;
  const line = await eventOf(ben, request);
  assert.equal(await line.getAttribute("data-caught-up"), "true");
  await connected(ben, "live");
  await ben.getByTestId("catch-up-done").waitFor();
});

test("a token that expires while the page is awake is renewed on the open connection", async (t) => {
  const { url, admin } = await startDev(t, { JWT_LEEWAY: "0s" });
  const browser = await launch(t);
  const ann = await member(url, "u1");
  const ben = await signIn(t, browser, url, "u2", { query: "?token=10" });
  await asked(ben);
  await asked(ben); // the second renewal: the first token has expired by now
  const { request } = await ann.post("/api/requests", { program: "p1", title: "By the third token" });
  await eventOf(ben, request);
  assert.equal(await ben.getByTestId("catch-up-done").count(), 0, "the connection was never lost");
  assert.equal(await metric(admin, expired, 0), 0);
});
