// One connection after the other, for as long as the relay lives: token, socket, `auth`, watchdog, renewal, and the wait in between.
// Functions over shared variables, here and elsewhere in the core: the names of a class's members would not be minified.

import { backoff } from "./backoff.js";
import type { Frame } from "./frames.js";
import { alarm, type Env, type Options, type WebSocketClass, type WebSocketLike } from "./options.js";
import { expiryOf, renewal } from "./renewal.js";
import { isFinal, type Status } from "./status.js";
import { watchdog } from "./watchdog.js";

const connectTime = 20_000; // from the token callback to `ready`
const settled = 30_000; // a try that lasted for so long hasn't failed

/** What the connection asks and tells. */
export interface Peer {
  /** The fields of the next `auth` frame beside the token. */
  ask(): { since: Record<string, string | undefined>; programs?: string[] | undefined };
  frame(frame: Frame): void;
  /** All frames of a message have been handed over. */
  flush(): void;
  status(status: Status): void;
}

export const connection = (url: string, Socket: WebSocketClass, options: Options, env: Env, peer: Peer) => {
  let socket: WebSocketLike | undefined;
  let attempt = 0; // what belongs to an older one is of no interest
  let ready = false;
  let began = 0; // the last try
  let tries = 0; // that have failed
  let fresh = false; // the last token has expired, or is about to
  let refusal = ""; // code of the error frame
  let user: Frame & { type: "ready" };
  let status: Status;

  const say = (next: Status) => {
    status = next;
    peer.status(next);
  };
  const send = (frame: object) => socket?.send(JSON.stringify(frame));
  const drop = () => {
    const old = socket;
    attempt++;
    socket = undefined;
    ready = false;
    timer();
    guard.stop();
    renewals.stop();
    old?.close();
  };
  const end = (code: number, reason: string) => {
    drop();
    say({ state: "closed", code, reason });
  };
  const lose = (code = 1006) => {
    drop();
    if (env.clock.now() - began > settled) tries = 0;
    const ms = backoff(env.random, tries++) + (code === 4013 ? 5000 : 0);
    timer(ms);
    say({ state: "waiting", retryAt: env.clock.now() + ms, code });
  };
  const timer = alarm(env, () => (status.state === "waiting" ? start() : lose()));

  // Fetches a token and uses it.
  const token = async (use: (jwt: string) => void) => {
    const mine = attempt;
    try {
      const jwt = await options.token({ fresh });
      if (mine !== attempt) return;
      fresh = false;
      if (jwt) use(jwt);
      else end(4501, "auth_required");
    } catch (error) {
      if (mine !== attempt) return;
      env.report(error);
      if (!ready) lose(); // else the renewal is tried again
    }
  };
  const renewals = renewal(env, () => {
    fresh = true;
    token((jwt) => {
      send({ type: "auth", token: jwt });
      renewals.until(expiryOf(jwt));
    });
  });
  const guard = watchdog(env, () => send({ type: "ping" }), lose);

  const start = () => {
    drop();
    refusal = "";
    began = env.clock.now();
    timer(connectTime);
    const mine = attempt;
    say({ state: "connecting" });
    if (mine === attempt) token(open); // a handler may have closed the relay
  };
  const open = (jwt: string) => {
    const s = new Socket(url);
    socket = s;
    s.onopen = () => s === socket && send({ type: "auth", token: jwt, batch: true, ...peer.ask() });
    s.onerror = () => {}; // a close follows
    s.onclose = ({ code }: { code: number }) => {
      if (s !== socket) return;
      if (isFinal(code)) return end(code, refusal);
      fresh = code === 4001;
      lose(code);
    };
    s.onmessage = ({ data }: { data: string }) => {
      if (s !== socket) return;
      guard.hear();
      try {
        for (const frame of [JSON.parse(data)].flat()) if (s === socket) take(frame);
      } catch (error) {
        env.report(error); // no server of ours sends such a thing
        lose();
      }
      peer.flush();
    };
  };
  const take = (frame: Frame) => {
    if (frame.type === "error") refusal = frame.code;
    if (frame.type === "ready") {
      user = frame;
      renewals.until(Date.parse(user.tokenExpiresAt));
      if (!ready) guard.start();
      ready = true;
      timer();
    }
    peer.frame(frame);
    if (frame.type === "live") say({ state: "live", userId: user.userId, role: user.role });
  };

  return {
    start,
    end,
    /** The network is back or the page is looked at again: don't wait, and don't trust the connection. */
    wake() {
      if (status.state === "waiting") start();
      if (!ready) return;
      renewals.check();
      guard.probe();
    },
  };
};
