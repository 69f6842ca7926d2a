// Headless Chromium, and a window of the demo page in it.
import assert from "node:assert/strict";
import { chromium } from "playwright-core";
import { later } from "./later.js";

export async function launch(t) {
  const start = () => chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
  const browser = await start().catch((err) => {
    if (!/SIGSEGV/.test(err.message)) throw err;
    t.diagnostic("the browser crashed before it opened a window; it is started once more");
    return start();
  });
  later(t, () => browser.close());
  return browser;
}

// signIn opens a window with a session of its own, signs in and waits until it is live. What the browser complains about
// (exceptions, a blocked script, a failed request) fails the test, unless `expected` matches it.
export async function signIn(t, browser, url, user, { query = "", expected, ...options } = {}) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  page.setDefaultTimeout(20_000);
  const complaints = [];
  page.on("pageerror", (err) => complaints.push(String(err)));
  page.on("console", (m) => m.type() === "error" && !expected?.test(m.text()) && complaints.push(m.text()));
  later(t, () => assert.deepEqual(complaints, [], `${user}'s browser complained`));
  await page.goto(`${url}/${query}`);
  await page.getByTestId(`sign-in-${user}`).click();
  await connected(page, "live");
  await page.getByTestId("request").first().waitFor();
  return page;
}

export const connected = (page, state) => page.locator(`[data-testid=connection][data-state="${state}"]`).waitFor();

// create presses Create and resolves to what the server answered: the request and its event are committed then.
export async function create(page, title, button = "create") {
  await page.getByTestId("new-title").fill(title);
  const answer = page.waitForResponse((r) => r.ok() && r.request().method() === "POST" && /\/api\/(requests|rollback)$/.test(r.url()));
  await page.getByTestId(button).click();
  return (await answer).json();
}

// eventOf waits for an event of a request in the feed.
export async function eventOf(page, request, name = "request:created") {
  const line = page.locator(`[data-testid=event][data-request="${request}"][data-event="${name}"]`);
  await line.first().waitFor();
  return line;
}

// card is a request on the board.
export const card = (page, request) => page.locator(`[data-testid=request][data-request="${request}"]`);

// shown is what the page shows of the program's requests, by id, in the form of `stored`.
export const shown = async (page) => (await page.getByTestId("request").evaluateAll((cards) => cards.map((c) => [
  c.dataset.request, c.dataset.status, c.querySelector("h3").textContent, c.querySelector("summary").textContent]))).sort(byId);

// stored is the same of what the server answers out of the database.
export const stored = (state) => state.requests.map((r) => [r.id, r.status, r.title,
  [r.comments.length ? count(r.comments.length, "comment") : "No comments", r.attachments.length && count(r.attachments.length, "file")].filter(Boolean).join(" · ")]).sort(byId);

const byId = ([a], [b]) => (a < b ? -1 : 1);
const count = (n, one) => `${n} ${one}${n === 1 ? "" : "s"}`;

// feed is the events in the feed, oldest first.
export const feed = (page) => page.getByTestId("event").evaluateAll((lines) => lines.map((l) => ({ ...l.dataset })).reverse());
