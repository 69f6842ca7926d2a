// useProgram in a real React, in StrictMode, in a real browser, from another origin than the server's.
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { join } from "node:path";
import { test } from "node:test";
import { build } from "esbuild";
import { startDev } from "./dev.js";
import { later } from "./later.js";
import { member } from "./member.js";
import { launch } from "./window.js";

const modules = join(import.meta.dirname, "node_modules");

async function bundle() {
  const { outputFiles } = await build({
    entryPoints: [join(import.meta.dirname, "react/page.jsx")],
    bundle: true, write: false, format: "esm", jsx: "automatic",
    define: { "process.env.NODE_ENV": '"development"' }, // StrictMode does nothing in production
    alias: { react: join(modules, "react"), "react-dom": join(modules, "react-dom") }, // for the sources of the client
  });
  return outputFiles[0].text;
}

test("useProgram in StrictMode", async (t) => {
  const script = await bundle();
  let token, ws;
  const server = createServer((request, answer) => {
    const [type, text] = request.url === "/" ? ["text/html", `<!doctype html><body data-ws="${ws}"><div id="root"></div><script type="module" src="/page.js"></script>`]
      : request.url === "/page.js" ? ["text/javascript", script] : ["text/plain", request.url === "/token" ? token : ""];
    answer.writeHead(200, { "content-type": `${type}; charset=utf-8` }).end(text);
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  later(t, () => new Promise((resolve) => { server.close(resolve); server.closeAllConnections(); }));
  const origin = `http://127.0.0.1:${server.address().port}`;
  const { url } = await startDev(t, { CLIENT_URL: origin });
  ws = `${url.replace("http", "ws")}/ws`;
  const ann = await member(url, "u1");
  token = ann.token;

  const browser = await launch(t);
  const page = await browser.newPage();
  page.setDefaultTimeout(20_000);
  const complaints = [];
  page.on("pageerror", (err) => complaints.push(String(err)));
  page.on("console", (m) => ["error", "warning"].includes(m.type()) && complaints.push(m.text()));
  const sockets = [];
  page.on("websocket", (s) => sockets.push(s));
  await page.goto(origin);
  const titles = (id) => page.getByTestId(`show-${id}`).locator("li").allTextContents();
  const write = async (program, title) => {
    await ann.post("/api/requests", { program, title });
    await page.getByTestId(`show-${program}`).getByText(title, { exact: true }).waitFor();
  };
  for (const id of ["p1", "p2"]) await page.locator(`[data-testid=show-${id}][data-state=live]`).waitFor({ state: "attached" });
  await write("p1", "One");
  await write("p2", "Two");
  await write("p1", "Three");
  assert.deepEqual([await titles("p1"), await titles("p2")], [["One", "Three"], ["Two"]], "each once, in order");

  await page.getByTestId("toggle").click();
  await write("p2", "Four");
  await page.getByTestId("toggle").click();
  await page.locator("[data-testid=show-p1][data-state=live]").waitFor({ state: "attached" });
  await write("p1", "Five");
  assert.deepEqual([await titles("p1"), await titles("p2")], [["Five"], ["Two", "Four"]], "a list begins anew when it is shown anew");
  assert.equal(sockets.length, 1, "all of it over one connection");
  assert.deepEqual(complaints, []);
});
