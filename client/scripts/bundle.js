// Writes bundle/outbox-relay.js, an ES module for pages without a build step; with --check it only says whether the file is stale.
import { readFileSync, writeFileSync } from "node:fs";
import { build } from "esbuild";

const file = new URL("../bundle/outbox-relay.js", import.meta.url);
const { version } = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8"));
const { outputFiles } = await build({
  entryPoints: [new URL("../src/bundle.ts", import.meta.url).pathname],
  banner: { js: `// @outboxrelay/client ${version}, Apache-2.0. Built from client/src by \`make client\`: don't edit.` },
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  charset: "utf8",
  write: false,
});
const text = outputFiles[0].text;
if (!process.argv.includes("--check")) writeFileSync(file, text);
else if (readFileSync(file, "utf8") !== text) {
  console.error("client/bundle/outbox-relay.js is stale: run `make client`");
  process.exit(1);
}
