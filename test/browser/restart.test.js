// The server restarts under open pages.
import assert from "node:assert/strict";
import { test } from "node:test";
import { startDev } from "./dev.js";
import { connected, create, eventOf, feed, launch, shown, signIn, stored } from "./window.js";
import { member } from "./member.js";

test("pages come back by themselves after a restart, and miss nothing", async (t) => {
  const dev = await startDev(t);
  const browser = await launch(t);
  const expected = /WebSocket connection to|ERR_CONNECTION_REFUSED|401 \(Unauthorized\)/; // while it is away, and for the sign-in that it forgot
  const ann = await signIn(t, browser, dev.url, "u1", { expected });
  const ben = await signIn(t, browser, dev.url, "u2", { expected });
  const before = await create(ann, "Before the restart");
  await eventOf(ben, before.request);
  await dev.restart(async () => {
    for (const page of [ann, ben]) await page.locator("[data-testid=connection]:not([data-state=live])").waitFor();
  });
  for (const page of [ann, ben]) await connected(page, "live");
  const after = await create(ann, "After the restart");
  await eventOf(ben, after.request);
  assert.deepEqual((await feed(ben)).map((e) => e.request), [before.request, after.request], "each once");
  assert.deepEqual(await shown(ben), stored(await (await member(dev.url, "u1")).state("p1")));
});
