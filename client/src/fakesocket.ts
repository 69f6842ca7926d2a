// The socket that a fake relay hands to the client.

import type { WebSocketLike } from "./options.js";

/** The server behind a socket. */
export interface Host {
  /** Whether a new connection is taken. */
  accept(socket: FakeSocket): boolean;
  receive(socket: FakeSocket, frame: Record<string, unknown>): void;
  gone(socket: FakeSocket): void;
}

/** Opens, and hands on what the client sends, in a microtask of its own, as a network would; what the server does arrives at once. */
export class FakeSocket implements WebSocketLike {
  onopen: ((event: any) => void) | null = null;
  onmessage: ((event: any) => void) | null = null;
  onclose: ((event: any) => void) | null = null;
  onerror: ((event: any) => void) | null = null;
  readonly #host: Host;
  #closed = false;

  constructor(host: Host) {
    this.#host = host;
    queueMicrotask(() => {
      if (this.#closed) return;
      if (host.accept(this)) this.onopen?.({});
      else {
        this.onerror?.({});
        this.shut(1006);
      }
    });
  }

  send(data: string) {
    const frame = JSON.parse(data);
    queueMicrotask(() => {
      if (!this.#closed) this.#host.receive(this, frame);
    });
  }

  close() {
    this.shut(1000);
  }

  /** The server says something: several frames are one message. */
  tell(...frames: object[]) {
    if (!this.#closed) this.onmessage?.({ data: JSON.stringify(frames.length === 1 ? frames[0] : frames) });
  }

  /** The connection ends with this code. */
  shut(code: number) {
    if (this.#closed) return;
    this.#closed = true;
    this.#host.gone(this);
    this.onclose?.({ code, reason: "" });
  }
}
