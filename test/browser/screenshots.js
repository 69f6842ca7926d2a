// Takes the two pictures of the README: `make screenshots`. SHOTS names another folder; more of them are taken then, to look at while working
// on the page.
import { mkdir, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { test } from "node:test";
import { PNG } from "pngjs";
import { startDev } from "./dev.js";
import { member } from "./member.js";
import { launch, signIn } from "./window.js";

const docs = resolve(import.meta.dirname, "../../docs");
const folder = process.env.SHOTS ?? docs;
const desktop = { viewport: { width: 1280, height: 800 } };
const phone = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 1.5, hasTouch: true, isMobile: true };
const sizes = {
  board: { ...desktop, colorScheme: "light" },
  "board-phone": { ...phone, colorScheme: "dark" },
  ...(process.env.SHOTS && { "board-dark": { ...desktop, colorScheme: "dark" }, "board-phone-light": { ...phone, colorScheme: "light" } }),
};

// shoot writes a picture; packed anew without filters, which suit photographs, it is a fifth smaller.
async function shoot(page, name) {
  const picture = PNG.sync.read(await page.screenshot({ animations: "disabled" }));
  await writeFile(join(folder, `${name}.png`), PNG.sync.write(picture, { colorType: 2, filterType: 0, deflateLevel: 9, deflateStrategy: 0 }));
}

await mkdir(folder, { recursive: true });
for (const [name, options] of Object.entries(sizes)) {
  test(name, async (t) => {
    const { url } = await startDev(t);
    const browser = await launch(t);
    const page = await signIn(t, browser, url, "u1", options);
    await busyDay(page, url);
    await shoot(page, name);
    if (process.env.SHOTS) await more(browser, page, name, url);
  });
}

// busyDay lets Ben and Cleo work, one act after the other: each is on the screen before the next.
async function busyDay(page, url) {
  const [ben, cleo] = [await member(url, "u2"), await member(url, "u3")];
  const path = async (title) => `/api/requests/${(await ben.state("p1")).requests.find((r) => r.title === title).id}`;
  const [bench, door, lamp, lift] = ["A bench for the hall", "Front door doesn't close", "Lamp on the second floor flickers", "Quote for the new lift"];
  for (const act of [
    async () => cleo.post(`${await path(lift)}/comments`, { body: "The third one came in today." }),
    async () => ben.post("/api/requests", { program: "p1", title: bench }),
    async () => cleo.post(`${await path(bench)}/assignee`, { user: "u3" }),
    async () => cleo.post(`${await path(bench)}/attachments`, { name: "bench.pdf", size: 182000 }),
    async () => ben.post(`${await path(lamp)}/status`, { status: "done" }),
    async () => cleo.post("/api/requests", { program: "p2", title: "A second screen for Dara" }),
    async () => cleo.post(`${await path(bench)}/comments`, { body: "Oak, please." }),
    async () => ben.post(`${await path(door)}/assignee`, { user: "u2" }),
    async () => ben.post(`${await path(door)}/status`, { status: "in_progress" }),
  ]) {
    const { events } = await act();
    await page.locator(`[data-testid=event][data-id="${events.at(-1)}"]`).waitFor();
  }
}

async function more(browser, page, name, url) {
  const phone = name.includes("phone");
  const shot = (what) => shoot(page, `${name}-${what}`);
  await page.getByTestId("details").first().click();
  if (phone) await page.locator("#feed-handle").click();
  await shot("details");
  if (phone) await page.locator("#feed-handle").click();
  await page.getByTestId("leave").click();
  await page.getByTestId("shut").waitFor();
  await shot("left");
  await page.getByTestId("rejoin").click();
  await page.getByTestId("request").first().waitFor();
  await page.getByTestId("go-offline").click();
  await shot("offline");
  const context = await browser.newContext(sizes[name]);
  const entry = await context.newPage();
  await entry.goto(url);
  await entry.getByTestId("sign-in-u1").waitFor();
  await shoot(entry, `${name}-signin`);
}
