// The page on a small window, in both colour schemes, and for people who don't want motion.
import assert from "node:assert/strict";
import { test } from "node:test";
import { startDev } from "./dev.js";
import { member } from "./member.js";
import { card, eventOf, launch, signIn } from "./window.js";

test("a phone-sized window", async (t) => {
  const { url } = await startDev(t);
  const browser = await launch(t);
  const ann = await member(url, "u1");
  const sideways = (page) => page.evaluate(() => document.scrollingElement.scrollWidth - innerWidth);

  for (const colorScheme of ["light", "dark"]) {
    await t.test(colorScheme, async () => {
      const ben = await signIn(t, browser, url, "u2", { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true, colorScheme, reducedMotion: "reduce" });
      const { request } = await ann.post("/api/requests", { program: "p1", title: "AVeryLongWordThatSomebodyPastedWithoutAnySpaceInItJustToSeeWhatHappens" });
      await eventOf(ben, request);
      await card(ben, request).getByTestId("details").tap();
      await card(ben, request).getByTestId("comment-input").waitFor();
      assert.equal(await sideways(ben), 0, "nothing sticks out at the side");
      await card(ben, request).getByTestId("status-done").tap();
      await ben.getByTestId("column-done").locator(card(ben, request)).waitFor();
      await ben.locator("#feed-handle").tap();
      await ben.getByTestId("median").waitFor();
      assert.equal(await sideways(ben), 0);
      const [text, ground] = await ben.evaluate(() => [getComputedStyle(document.body).color, getComputedStyle(document.documentElement).backgroundColor]
        .map((c) => c.match(/\d+/g).slice(0, 3).reduce((sum, v) => sum + Number(v), 0)));
      assert.equal(text < ground, colorScheme === "light", `text ${text} on ${ground}`);
    });
  }
});
