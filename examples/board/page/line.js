// The plug of the WebSocket: what connect() gets in place of the browser's WebSocket, so that a button can pull it.

const names = ["onopen", "onmessage", "onclose", "onerror"];

export function plug() {
  const open = new Set();
  const waiting = new Set(); // sockets that were asked for while the plug was out
  let out = false;

  class Line {
    onopen = null;
    onmessage = null;
    onclose = null;
    onerror = null;

    constructor(url) {
      this.url = url;
      if (out) waiting.add(this);
      else this.open();
    }

    open() {
      this.socket = new WebSocket(this.url);
      for (const name of names) this.socket[name] = (e) => this[name]?.(e);
      open.add(this);
      this.socket.addEventListener("close", () => open.delete(this));
    }

    send(data) {
      this.socket.send(data);
    }

    close() {
      waiting.delete(this);
      this.socket?.close();
    }

    cut() {
      for (const name of names) this.socket[name] = null;
      this.close();
      open.delete(this);
      this.onclose?.({ code: 1006, reason: "" });
    }
  }

  return {
    WebSocket: Line,
    out: () => out,
    until: 0, // when it is put back, ms since 1970
    pull(ms) {
      out = true;
      this.until = Date.now() + ms;
      for (const line of [...open]) line.cut();
    },
    put() {
      out = false;
      for (const line of [...waiting]) line.open();
      waiting.clear();
    },
  };
}
