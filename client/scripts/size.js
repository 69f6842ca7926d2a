// Prints how large each entry is, bundled, minified and compressed with brotli, and fails when the core is larger than 3.2 KB.
import { fileURLToPath } from "node:url";
import { brotliCompressSync } from "node:zlib";
import { build } from "esbuild";

const most = 3200; // bytes, of "."

const sizeOf = async (entry) => {
  const { outputFiles } = await build({
    entryPoints: [fileURLToPath(new URL(`../src/${entry}.ts`, import.meta.url))],
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    external: ["react"],
    write: false,
  });
  const { contents } = outputFiles[0];
  return { plain: contents.length, brotli: brotliCompressSync(contents).length };
};

let core = 0;
for (const entry of ["index", "storage", "react", "testing"]) {
  const { plain, brotli } = await sizeOf(entry);
  if (entry === "index") core = brotli;
  console.log(`${entry.padEnd(8)} ${String(plain).padStart(6)} bytes minified ${String(brotli).padStart(6)} brotli`);
}
if (core > most) {
  console.error(`the core is larger than ${most} bytes: ${core}`);
  process.exit(1);
}
