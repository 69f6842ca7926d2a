import { defineConfig } from "vitest/config";

// The tests against a server need one that runs: scripts/server-test starts it.
export default defineConfig({
  test: {
    projects: [
      { test: { name: "unit", include: ["test/unit/**/*.test.{ts,tsx}"], unstubGlobals: true } },
      { test: { name: "server", include: ["test/server/**/*.test.ts"], testTimeout: 30_000, fileParallelism: false } },
    ],
  },
});
