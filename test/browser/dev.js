// Starts `outbox-relay dev` as a child, on free ports and with a data folder of its own, and stops it as Ctrl-C would.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { later } from "./later.js";

const binary = resolve(import.meta.dirname, "../../bin/outbox-relay");
const root = process.getuid?.() === 0;

// Settings of the person who runs the tests must not reach the child.
const foreign = /^(DATABASE_URL|REDIS_URL|JWT_|CLIENT_URL|ROLE$|LISTEN_ADDR|ADMIN_ADDR|OUTBOX_RELAY_DATA)/;
const inherited = Object.fromEntries(Object.entries(process.env).filter(([name]) => !foreign.test(name)));

// tempFolder makes a folder that the unprivileged user of Postgres can enter.
export async function tempFolder(t) {
  const dir = await mkdtemp(join(root ? "/var/tmp" : tmpdir(), "outbox-relay-browser-"));
  await chmod(dir, 0o755);
  later(t, () => rm(dir, { recursive: true, force: true }));
  return dir;
}

// freePort takes none from the range that the system gives to those who ask for any port: somebody could be given it before the server listens.
async function freePort() {
  for (;;) {
    const port = 15_000 + Math.floor(Math.random() * 7_000);
    const server = createServer().listen(port, "127.0.0.1");
    const free = await once(server, "listening").then(() => true, () => false);
    if (!free) continue;
    server.close();
    await once(server, "close");
    return port;
  }
}

// startDev resolves, when dev has printed it, to the page's URL, the admin listener's, what dev wrote until now, and `restart`, which
// stops it as Ctrl-C would, calls `meanwhile` and starts it again on the same ports and data.
export async function startDev(t, env = {}) {
  const [listen, admin] = [`127.0.0.1:${await freePort()}`, `127.0.0.1:${await freePort()}`];
  const settings = { ...inherited, LISTEN_ADDR: listen, ADMIN_ADDR: admin, OUTBOX_RELAY_DATA: await tempFolder(t), ...env };
  let dev = await run(settings);
  later(t, () => dev.stop());
  return {
    url: dev.url,
    admin: `http://${admin}`,
    output: () => dev.output(),
    restart: async (meanwhile = async () => {}) => {
      await dev.stop();
      await meanwhile();
      dev = await run(settings);
    },
  };
}

async function run(env) {
  const child = spawn(binary, ["dev"], { stdio: ["ignore", "pipe", "pipe"], env });
  let output = "";
  child.stderr.on("data", (chunk) => { output += chunk; });
  const exited = once(child, "exit");
  const stop = async () => {
    child.kill("SIGINT");
    const killer = setTimeout(() => child.kill("SIGKILL"), 60_000);
    const [code, signal] = await exited;
    clearTimeout(killer);
    assert.deepEqual({ code, signal }, { code: 0, signal: null }, `dev after Ctrl-C:\n${output}`);
  };
  for await (const line of createInterface({ input: child.stdout })) {
    output += `${line}\n`;
    const url = line.match(/http:\/\/[^\s/]+/);
    if (url) {
      child.stdout.resume();
      return { url: url[0], output: () => output, stop };
    }
  }
  assert.fail(`dev ended before it printed a URL:\n${output}`);
}

// metric waits until a metric of the admin listener has at least this value.
export async function metric(admin, name, least) {
  for (const deadline = Date.now() + 30_000; ; await new Promise((resolve) => setTimeout(resolve, 100))) {
    const text = await (await fetch(`${admin}/metrics`)).text();
    const value = Number(text.split("\n").find((l) => l.startsWith(`${name} `))?.slice(name.length) ?? 0);
    if (value >= least) return value;
    assert.ok(Date.now() < deadline, `${name} is ${value}, want ${least}`);
  }
}
