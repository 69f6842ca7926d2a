// A WebSocket server of the test's own, beside that of `dev`, which can be stopped and started.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import { fileURLToPath } from "node:url";
import { onTestFinished } from "vitest";

const binary = fileURLToPath(new URL("../../../bin/outbox-relay", import.meta.url));

/** freePort takes none from the range that the system gives to those who ask for any port: somebody could be given it before the server listens. */
async function freePort() {
  for (;;) {
    const port = 15_000 + Math.floor(Math.random() * 7_000);
    const server = createServer().listen(port, "127.0.0.1");
    const free = await once(server, "listening").then(
      () => true,
      () => false,
    );
    if (!free) continue;
    server.close();
    await once(server, "close");
    return port;
  }
}

/** serve starts a server of the role ws with these settings; it is stopped when the test ends. */
export async function serve(settings: Record<string, string>) {
  const [port, admin] = [await freePort(), await freePort()];
  const env = {
    ...process.env,
    ROLE: "ws",
    LISTEN_ADDR: `127.0.0.1:${port}`,
    ADMIN_ADDR: `127.0.0.1:${admin}`,
    SHUTDOWN_GRACE: "0s",
    LOG_LEVEL: "warn",
    ...settings,
  };
  let stop = async () => {};
  const start = async () => {
    const child = spawn(binary, ["serve"], { env, stdio: ["ignore", "inherit", "inherit"] });
    const exit = once(child, "exit");
    stop = async () => {
      stop = async () => {};
      child.kill("SIGTERM");
      await exit;
    };
    for (;;) {
      const answer = await fetch(`http://127.0.0.1:${admin}/readyz`).catch(() => undefined);
      if (answer?.ok) return;
      if (child.exitCode !== null) throw new Error(`serve has ended with ${child.exitCode}`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  };
  await start();
  onTestFinished(() => stop());
  return { url: new URL(`ws://127.0.0.1:${port}/ws`), start, stop: () => stop() };
}
