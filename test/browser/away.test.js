// Windows that are away for a while: offline, or reloaded.
import assert from "node:assert/strict";
import { test } from "node:test";
import { startDev } from "./dev.js";
import { member } from "./member.js";
import { card, connected, create, eventOf, feed, launch, shown, signIn, stored } from "./window.js";

test("a window that was offline catches up", async (t) => {
  const { url } = await startDev(t);
  const browser = await launch(t);
  const ann = await signIn(t, browser, url, "u1");
  const ben = await signIn(t, browser, url, "u2", { query: "?offline=600" });
  const before = await create(ann, "Before");
  await eventOf(ben, before.request);

  await ben.getByTestId("go-offline").click();
  await connected(ben, "offline");
  const missed = [];
  for (const title of ["One", "Two", "Three"]) missed.push((await create(ann, title)).request);
  const gone = await create(ann, "Never", "create-rollback");
  await eventOf(ann, missed[2]);
  assert.deepEqual((await feed(ben)).map((e) => e.request), [before.request], "nothing arrives offline");
  await ben.getByTestId("go-offline").click(); // it brings the window back now
  await ben.getByTestId("catch-up-done").waitFor();
  await connected(ben, "live");
  const caught = (await feed(ben)).filter((e) => e.caughtUp === "true").map((e) => e.request);
  assert.deepEqual(caught, missed, "exactly what was missed, once, in order");
  assert.match(await ben.getByTestId("catch-up-done").textContent(), /3 missed events/);

  const after = await create(ann, "After");
  await eventOf(ben, after.request);
  const all = (await feed(ben)).map((e) => e.request);
  assert.deepEqual(all, [before.request, ...missed, after.request]);
  assert.ok(!all.includes(gone.request));
});

test("a page that is loaded again has the state, and goes on live", async (t) => {
  const { url } = await startDev(t);
  const browser = await launch(t);
  const ann = await signIn(t, browser, url, "u1");
  const ben = await signIn(t, browser, url, "u2");
  const first = await create(ann, "Written before the reload");
  await eventOf(ben, first.request);
  await ben.reload();
  await connected(ben, "live");
  await card(ben, first.request).waitFor();
  assert.deepEqual(await feed(ben), [], "the state holds it; it isn't an event again");
  const second = await create(ann, "Written after it");
  await eventOf(ben, second.request);
});

test("500 events while away: a gap, and the state is read anew", async (t) => {
  const { url } = await startDev(t);
  const browser = await launch(t);
  const ben = await signIn(t, browser, url, "u2", { query: "?offline=600" });
  const ann = await member(url, "u1");
  await ben.getByTestId("go-offline").click();
  await connected(ben, "offline");
  const before = await shown(ben);
  const one = async (n) => {
    const { request } = await ann.post("/api/requests", { program: "p1", title: `Number ${n}` });
    await ann.post(`/api/requests/${request}/status`, { status: "in_progress" });
    await ann.post(`/api/requests/${request}/comments`, { body: "On it." });
    await ann.post(`/api/requests/${request}/attachments`, { name: "photo.jpg", size: n });
    await ann.post(`/api/requests/${request}/status`, { status: "done" });
  };
  for (let n = 0; n < 100; n += 10) await Promise.all(Array.from({ length: 10 }, (_, i) => one(n + i)));
  assert.deepEqual(await shown(ben), before, "nothing arrives offline");

  await ben.getByTestId("go-offline").click();
  await ben.getByTestId("catch-up-done").waitFor();
  assert.match(await ben.getByTestId("gap").textContent(), /Building services.*\(limit\)/);
  const events = await feed(ben);
  assert.equal(events.length, 50, "MAX_CATCHUP_EVENTS, the newest");
  assert.ok(events.every((e) => e.caughtUp === "true"));
  const want = stored(await ann.state("p1"));
  assert.equal(want.length, before.length + 100);
  assert.deepEqual(await shown(ben), want, "the page and the database");

  const { request } = await ann.post("/api/requests", { program: "p1", title: "And on it goes" });
  const line = await eventOf(ben, request);
  assert.equal(await line.getAttribute("data-caught-up"), "false");
});
