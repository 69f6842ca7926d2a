// A network that fails without a word.
import assert from "node:assert/strict";
import { test } from "node:test";
import { startDev } from "./dev.js";
import { member } from "./member.js";
import { connected, eventOf, feed, launch, signIn } from "./window.js";

// A network that is gone says nothing to a WebSocket: no close, no error. The page has to notice by itself, and to come back by itself.
test("a network that is gone without a word", async (t) => {
  const { url } = await startDev(t);
  const browser = await launch(t);
  const ann = await member(url, "u1");
  const ben = await signIn(t, browser, url, "u2", { expected: /ERR_INTERNET_DISCONNECTED/ });
  const write = (title) => ann.post("/api/requests", { program: "p1", title });
  const first = await write("Before");
  await eventOf(ben, first.request);

  await t.test("a short break: what came meanwhile is there at once, in order", async () => {
    await ben.context().setOffline(true);
    const missed = [];
    for (const title of ["One", "Two"]) missed.push((await write(title)).request);
    assert.deepEqual((await feed(ben)).map((e) => e.request), [first.request], "nothing gets through");
    await ben.context().setOffline(false);
    await eventOf(ben, missed[1]);
    assert.deepEqual((await feed(ben)).map((e) => e.request), [first.request, ...missed]);
  });

  await t.test("a long one: the light goes out, and what was missed is caught up", async () => {
    const before = (await feed(ben)).map((e) => e.request);
    await ben.context().setOffline(true);
    const missed = [(await write("Three")).request];
    await ben.locator("[data-testid=connection]:not([data-state=live])").waitFor({ timeout: 45_000 });
    missed.push((await write("Four")).request);
    await ben.context().setOffline(false);
    await ben.getByTestId("catch-up-done").waitFor();
    await connected(ben, "live");
    assert.deepEqual((await feed(ben)).map((e) => e.request), [...before, ...missed], "each once, in order");
  });
});
