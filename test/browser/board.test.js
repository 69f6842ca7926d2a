// The demo page on this machine's Postgres and Redis: two windows as two users.
import assert from "node:assert/strict";
import { test } from "node:test";
import { startDev } from "./dev.js";
import { connected, create, eventOf, feed, launch, signIn } from "./window.js";

test("what one window commits appears in the other", async (t) => {
  const { url } = await startDev(t);
  const browser = await launch(t);
  const ann = await signIn(t, browser, url, "u1");
  const ben = await signIn(t, browser, url, "u2");

  await t.test("each button is one event, in order, and changes the other's board", async () => {
    const { request } = await create(ann, "A shelf for the hall");
    await eventOf(ben, request);
    const mine = ann.locator(`[data-request="${request}"][data-testid=request]`);
    const his = ben.locator(`[data-request="${request}"][data-testid=request]`);
    assert.equal(await his.getByTestId("request-title").textContent(), "A shelf for the hall");

    await mine.getByTestId("status-in_progress").click();
    await eventOf(ben, request, "request:status_changed");
    assert.equal(await his.getAttribute("data-status"), "in_progress");

    await mine.getByTestId("assignee").selectOption("u2");
    await eventOf(ben, request, "request:assigned");
    assert.equal(await his.getByTestId("assignee").inputValue(), "u2");

    await mine.getByTestId("details").click();
    await mine.getByTestId("comment-input").fill("Oak, please");
    await mine.getByTestId("comment-send").click();
    await eventOf(ben, request, "comment:added");
    await his.getByTestId("details").click();
    assert.match(await his.getByTestId("comment").textContent(), /Ann Lee Oak, please/);

    await mine.getByTestId("attach").click();
    await eventOf(ben, request, "attachment:uploaded");
    await mine.getByTestId("delete-attachment").click();
    await eventOf(ben, request, "attachment:deleted");
    await mine.getByTestId("delete-comment").click();
    await eventOf(ben, request, "comment:deleted");
    assert.equal(await his.getByTestId("comment").count() + await his.getByTestId("attachment").count(), 0);

    await mine.getByTestId("rename").click();
    await mine.getByTestId("rename-input").fill("A bench for the hall");
    await mine.getByTestId("rename-input").press("Enter");
    await eventOf(ben, request, "request:updated");
    assert.equal(await his.getByTestId("request-title").textContent(), "A bench for the hall");

    const names = (await feed(ben)).filter((e) => e.request === request).map((e) => e.event);
    assert.deepEqual(names, ["request:created", "request:status_changed", "request:assigned", "comment:added",
      "attachment:uploaded", "attachment:deleted", "comment:deleted", "request:updated"]);
  });

  await t.test("what was rolled back never arrives, and what was committed after it does", async () => {
    const gone = await create(ann, "This never happens", "create-rollback");
    assert.equal(gone.rolledBack, true);
    assert.equal(gone.events.length, 5, "the transaction had emitted before it was rolled back");
    const { request } = await create(ann, "This does happen");
    for (const page of [ann, ben]) {
      await eventOf(page, request);
      const events = await feed(page);
      assert.deepEqual(events.filter((e) => e.request === gone.request || gone.events.includes(Number(e.id))), []);
      assert.equal(await page.locator(`[data-testid=request][data-request="${gone.request}"]`).count(), 0);
    }
    await ann.getByTestId("rolled-back").getByText("Nothing arrived").waitFor();
  });

  await t.test("nobody sees a program that they aren't a member of", async () => {
    await ann.getByTestId("program-p2").click();
    const other = await create(ann, "Only for the help desk");
    await eventOf(ann, other.request);
    await ann.getByTestId("program-p1").click();
    const { request } = await create(ann, "For everybody in the building");
    await eventOf(ben, request);
    assert.deepEqual((await feed(ben)).filter((e) => e.request === other.request), []);
    assert.equal(await ben.getByTestId("program-p2").count(), 0);
  });
});

test("a window that was offline catches up", async (t) => {
  const { url } = await startDev(t);
  const browser = await launch(t);
  const ann = await signIn(t, browser, url, "u1");
  const ben = await signIn(t, browser, url, "u2", { query: "?offline=4" });
  const before = await create(ann, "Before");
  await eventOf(ben, before.request);

  await ben.getByTestId("go-offline").click();
  await connected(ben, "offline");
  const missed = [];
  for (const title of ["One", "Two", "Three"]) missed.push((await create(ann, title)).request);
  const gone = await create(ann, "Never", "create-rollback");
  await eventOf(ann, missed[2]);
  assert.deepEqual((await feed(ben)).map((e) => e.request), [before.request], "nothing arrives offline");
  await connected(ben, "offline");

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
  await ben.locator(`[data-testid=request][data-request="${first.request}"]`).waitFor();
  assert.deepEqual(await feed(ben), [], "the state holds it; it isn't an event again");
  const second = await create(ann, "Written after it");
  await eventOf(ben, second.request);
});
