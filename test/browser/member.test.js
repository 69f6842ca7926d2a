// Memberships that end and begin while the page is open.
import assert from "node:assert/strict";
import { test } from "node:test";
import { startDev } from "./dev.js";
import { member } from "./member.js";
import { card, eventOf, feed, launch, shown, signIn, stored } from "./window.js";

test("a member who is removed sees the room close, and nothing of what comes after", async (t) => {
  const { url } = await startDev(t);
  const browser = await launch(t);
  const ann = await member(url, "u1");
  const window = await signIn(t, browser, url, "u1");
  const ben = await signIn(t, browser, url, "u2");
  const elsewhere = await member(url, "u2");
  const write = async (title) => (await ann.post("/api/requests", { program: "p1", title })).request;

  await t.test("removed elsewhere", async () => {
    const before = await write("Before");
    await eventOf(ben, before);
    await elsewhere.delete("/api/programs/p1/membership");
    await ben.getByTestId("shut").waitFor();
    await ben.getByTestId("left").waitFor();
    assert.equal(await ben.getByTestId("requests").isVisible(), false, "the board is gone");
    const hidden = await write("Not for Ben");
    await eventOf(window, hidden); // it has its place in the log now: what joins Ben again comes behind it
    await elsewhere.put("/api/programs/p1/membership");
    await card(ben, hidden).waitFor(); // the state that is read after `joined` has it
    const after = await write("After");
    await eventOf(ben, after);
    assert.deepEqual((await feed(ben)).map((e) => e.request), [before, after], "no event from between");
    assert.deepEqual(await shown(ben), stored(await ann.state("p1")));
  });

  await t.test("by the buttons, and the feed says how fast", async () => {
    await ben.getByTestId("leave").click();
    await ben.getByTestId("rejoin").waitFor();
    assert.match(await ben.getByTestId("left").first().textContent(), /the room closed \d+ ms after the click/);
    await ben.getByTestId("rejoin").click();
    await ben.getByTestId("requests").waitFor();
    const again = await write("Again");
    await eventOf(ben, again);
  });
});
