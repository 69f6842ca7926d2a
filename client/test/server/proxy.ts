// A TCP proxy that can cut and stall what passes it.

import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";

export interface Cable {
  /** The WebSocket address of this side. */
  url: string;
  /** Resets all connections. */
  cut(): void;
  /** Refuses new connections, and cuts the others; allows them again. */
  block(): void;
  allow(): void;
  /** From now on the open connections take everything and pass nothing on, without an end. */
  swallow(): void;
  close(): Promise<void>;
}

export async function startProxy(target: URL): Promise<Cable> {
  const open = new Set<Socket>();
  let blocked = false;
  const server = createServer((near) => {
    if (blocked) return void near.resetAndDestroy();
    const far = connect(Number(target.port), target.hostname);
    for (const [from, to] of [
      [near, far],
      [far, near],
    ] as const) {
      open.add(from);
      from.on("error", () => to.destroy());
      from.on("close", () => {
        open.delete(from);
        to.destroy();
      });
      from.pipe(to);
    }
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const cut = () => {
    for (const s of open) s.resetAndDestroy();
  };
  return {
    url: `ws://127.0.0.1:${(server.address() as AddressInfo).port}${target.pathname}`,
    cut,
    block() {
      blocked = true;
      cut();
    },
    allow() {
      blocked = false;
    },
    swallow() {
      for (const s of open) {
        s.unpipe();
        s.on("data", () => {});
      }
    },
    async close() {
      cut();
      server.close();
      await once(server, "close");
    },
  };
}
