// The demo page on this machine's Postgres and Redis: two windows as two users.
import assert from "node:assert/strict";
import { test } from "node:test";
import { startDev } from "./dev.js";
import { card, create, eventOf, feed, launch, signIn } from "./window.js";

test("what one window commits appears in the other", async (t) => {
  const { url } = await startDev(t);
  const browser = await launch(t);
  const ann = await signIn(t, browser, url, "u1");
  const ben = await signIn(t, browser, url, "u2");

  await t.test("each button is one event, in order, and changes the other's board", async () => {
    const { request } = await create(ann, "A shelf for the hall");
    await eventOf(ben, request);
    const mine = card(ann, request);
    const his = card(ben, request);
    assert.equal(await his.getByTestId("request-title").textContent(), "A shelf for the hall");

    await mine.getByTestId("status-in_progress").click();
    await eventOf(ben, request, "request:status_changed");
    await ben.getByTestId("column-in_progress").locator(his).waitFor();
    assert.match(await his.getByTestId("touched").textContent(), /^ALAnn moved this.*just now$/);
    assert.match(await ben.getByTestId("acted").textContent(), /^Ann moved “A shelf for the hall”$/);

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
      assert.equal(await card(page, gone.request).count(), 0);
    }
    await ann.getByTestId("rolled-back").getByText("Nothing arrived").waitFor();
  });

  await t.test("a card that is dragged into a column goes there in all windows, and what is being typed stays", async () => {
    const { request } = await create(ann, "To be dragged");
    await eventOf(ben, request);
    await ben.getByTestId("new-title").fill("half a title");
    await card(ben, request).getByTestId("details").click();
    await card(ben, request).getByTestId("comment-input").fill("half a comment");
    await card(ann, request).dragTo(ann.getByTestId("column-done"));
    await ben.getByTestId("column-done").locator(card(ben, request)).waitFor();
    assert.equal(await card(ben, request).getByTestId("comment-input").inputValue(), "half a comment");
    assert.equal(await ben.getByTestId("new-title").inputValue(), "half a title");
  });

  await t.test("an event's line says how long it took from commit to screen", async () => {
    const { request } = await create(ann, "Watch the clock");
    const line = await eventOf(ben, request);
    const ms = Number(await line.getByTestId("latency").getAttribute("data-ms"));
    assert.ok(ms >= 0 && ms < 5000, `${ms} ms`);
    assert.match(await ben.getByTestId("median").textContent(), /^[0-9.]+ (ms|s)$/);
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
