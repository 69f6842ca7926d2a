// Subscribes to the events of one's programs; docs/PROTOCOL.md has the frames. Nothing here knows about the board: copy it.
// token(fresh) resolves to a JWT; on gets event, gap, joined, left, status. gap means: read the state of that program again.
export function subscribe({ url, token, on }) {
  const since = {}; // newest position seen in each program; "*" is the server's checkpoint for all of them
  let socket, timer, heard, attempt = 0, tries = 0, fresh = false;

  const frames = {
    ready: (f) => { // a program without a position is new to us: nothing is known of it yet
      for (const p of f.programs) if (!(p in since) && !("*" in since)) on.gap({ programId: p, reason: "new" });
      on.status("catching-up", f);
    },
    event: (f) => { // at least once: a repeat is at or below our position
      if (f.programId in since && BigInt(f.position) <= BigInt(since[f.programId])) return;
      since[f.programId] = f.position;
      on.event(f);
    },
    gap: (f) => { since[f.programId] = String(BigInt(f.before) - 1n); on.gap(f); },
    live: (f) => { tries = 0; frames.position(f); on.status("live", f); },
    position: (f) => { if (f.position) since["*"] = f.position; },
    joined: (f) => { since[f.programId] = f.position; on.joined(f); },
    left: (f) => { delete since[f.programId]; on.left(f); },
  };

  const connect = async () => {
    const mine = ++attempt;
    const jwt = await token(fresh).catch(() => null);
    if (mine !== attempt) return; // closed or paused meanwhile
    if (jwt === null) return retry();
    socket = new WebSocket(url);
    socket.onopen = () => { heard = Date.now(); socket.send(JSON.stringify({ type: "auth", token: jwt, since })); };
    socket.onmessage = (m) => { heard = Date.now(); const f = JSON.parse(m.data); frames[f.type]?.(f); };
    socket.onclose = ({ code, reason }) => {
      fresh = code === 4001; // the token expired: get a new one
      const final = code >= 4500 || [1002, 1003, 1007, 1009].includes(code);
      if (final) on.status("closed", { code, reason }); else retry();
    };
  };
  const retry = (wait = Math.min(30_000, 500 * 2 ** tries++) * (0.5 + Math.random() / 2)) => {
    drop();
    on.status("offline", { wait });
    timer = setTimeout(connect, wait);
  };
  const drop = () => { attempt++; clearTimeout(timer); if (socket) socket.onclose = socket.onmessage = null; socket?.close(); socket = null; };
  const watch = setInterval(() => { // a connection can die without a close; what a browser doesn't see of the server's pings it asks for
    if (socket?.readyState !== WebSocket.OPEN) return;
    if (Date.now() - heard > 45_000) retry(0); else socket.send('{"type":"ping"}');
  }, 15_000);
  connect();
  return { close: () => { clearInterval(watch); drop(); }, pause: (ms) => retry(ms) };
}
