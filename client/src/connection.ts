// One connection after the other, for as long as the relay lives: token, socket, `auth`, watchdog, renewal, and the wait in between.

import { backoff } from "./backoff.js";
import type { Frame } from "./frames.js";
import { alarm, type Env, type Options, type WebSocketLike } from "./options.js";
import { renewal } from "./renewal.js";
import { isFinal, type Status } from "./status.js";
import { watchdog } from "./watchdog.js";

const connectTime = 20_000; // from the token callback to `ready`
const settled = 10_000; // live for so long: the next loss isn't another failed try

/** What the connection asks and tells. */
export interface Peer {
  /** The fields of the next `auth` frame beside the token. */
  ask(): { since: Record<string, string>; programs?: string[] | undefined };
  frame(frame: Frame): void;
  /** All frames of a message have been handed over. */
  flush(): void;
  status(status: Status): void;
}

export const connection = (url: string, options: Options, env: Env, peer: Peer) => {
  let socket: WebSocketLike | undefined;
  let attempt = 0; // what belongs to an older one is of no interest
  let ready = false;
  let liveAt = 0;
  let fresh = false; // the last token has expired, or is about to
  let refusal = ""; // code of the error frame
  let status: Status;
  const wait = backoff(env.random);

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
    if (liveAt && env.now() - liveAt > settled) wait.reset();
    liveAt = 0;
    const ms = wait.next() + (code === 4013 ? 5000 : 0);
    timer(ms);
    say({ state: "waiting", retryAt: env.now() + ms, code });
  };
  const timer = alarm(env, () => (status.state === "waiting" ? start() : lose()));

  // Resolves to nothing if there is no token, and that has been dealt with.
  const token = async () => {
    const mine = attempt;
    try {
      const jwt = await options.token({ fresh });
      if (mine !== attempt) return;
      fresh = false;
      if (jwt) return jwt;
      end(4501, "auth_required");
    } catch (error) {
      if (mine !== attempt) return;
      env.report(error);
      if (!ready) lose();
    }
    return;
  };
  const auth = (jwt: string, more?: object) => send({ type: "auth", token: jwt, ...more });
  const renewals = renewal(env, async () => {
    fresh = true;
    const jwt = await token();
    if (jwt) auth(jwt);
    return jwt;
  });
  const guard = watchdog(env, () => send({ type: "ping" }), lose);

  const start = async () => {
    drop();
    refusal = "";
    timer(connectTime);
    say({ state: "connecting" });
    const jwt = await token();
    if (jwt) open(jwt);
  };
  const open = (jwt: string) => {
    const s = new (options.WebSocket ?? WebSocket)(url);
    socket = s;
    s.onopen = () => s === socket && auth(jwt, { batch: true, ...peer.ask() });
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
    if (frame.type === "ready") {
      renewals.until(Date.parse(frame.tokenExpiresAt));
      if (!ready) guard.start();
      ready = true;
      timer();
    }
    if (frame.type === "live") liveAt = env.now();
    if (frame.type === "error") refusal = frame.code;
    peer.frame(frame);
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
