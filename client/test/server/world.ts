// What the tests against a real server share. `outbox-relay dev -- npm run test:server` sets the environment.

import { createHmac } from "node:crypto";
import pg from "pg";
import { afterAll, onTestFinished } from "vitest";
import WebSocket from "ws";
import { connect, type Options, type Relay } from "../../src/index.js";
import { type Cable, startProxy } from "./proxy.js";

const setting = (name: string) => {
  const value = process.env[name];
  if (!value) throw new Error(`${name} isn't set: run \`make test-client\``);
  return value;
};
export const relayURL = new URL(setting("RELAY_URL"));

const db = new pg.Pool({ connectionString: setting("DATABASE_URL"), max: 4 });
afterAll(() => db.end());

/** tokenFor signs a token that lives for some seconds, rounded up. */
export function tokenFor(user: string, seconds = 600) {
  const part = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const text = `${part({ alg: "HS256", typ: "JWT" })}.${part({ sub: user, exp: Math.ceil(Date.now() / 1000 + seconds) })}`;
  return `${text}.${createHmac("sha256", setting("JWT_ACCESS_SECRET")).update(text).digest("base64url")}`;
}

let users = 0;

/** User is somebody that no other test knows, with two programs of their own. */
export class User {
  readonly id = `user-${process.pid}-${Date.now()}-${++users}`;
  readonly p1 = `${this.id}.p1`;
  readonly p2 = `${this.id}.p2`;

  async create() {
    await db.query("INSERT INTO relay.users (id, first_name, last_name, email, role) VALUES ($1, 'Test', 'User', $1, 'member')", [this.id]);
    for (const p of [this.p1, this.p2]) await this.join(p);
    // A membership counts when the relay has read it: until then a connection that is made is told of it by `joined`.
    const scout = connect(relayURL, { token: () => tokenFor(this.id), WebSocket });
    await until(scout, () => scout.programs.length === 2);
    scout.close();
    return this;
  }
  join = (program: string) => db.query("INSERT INTO relay.program_members (user_id, program_id) VALUES ($1, $2)", [this.id, program]);
  kick = (program: string) => db.query("DELETE FROM relay.program_members WHERE user_id = $1 AND program_id = $2", [this.id, program]);
  deactivate = () => db.query("UPDATE relay.users SET is_active = false WHERE id = $1", [this.id]);
}

/** emit commits one transaction with these events and returns their ids. */
export async function emit(program: string, ...ns: number[]): Promise<string[]> {
  const { rows } = await db.query(
    "SELECT relay.emit($1, 'request:created', json_build_object('n', n))::text AS id FROM unnest($2::int[]) WITH ORDINALITY AS u (n, i) ORDER BY i",
    [program, ns],
  );
  return rows.map((row) => row.id);
}

/** The events of these tests. */
export type Numbers = { "request:created": { n: number } };

export interface Client {
  relay: Relay<Numbers>;
  proxy: Cable;
  /** What the handlers of `program` were called with. */
  seen: number[];
  gaps: string[];
  /** How many sockets there have been. */
  sockets(): number;
}

/** client connects a user through a proxy and follows p1. It is closed when the test ends. */
export async function client(user: User, options: Partial<Options> = {}, target: URL = relayURL): Promise<Client> {
  const proxy = await startProxy(target);
  let sockets = 0;
  const relay = connect<Numbers>(proxy.url, {
    token: () => tokenFor(user.id),
    WebSocket: class extends WebSocket {
      constructor(url: string) {
        super(url);
        sockets++;
      }
    },
    ...options,
  });
  const seen: number[] = [];
  const gaps: string[] = [];
  const p1 = relay.program(user.p1);
  p1.on("*", (e) => seen.push(Number(e.data.n)));
  p1.onGap((g) => gaps.push(g.reason));
  onTestFinished(async () => {
    relay.close();
    await proxy.close();
  });
  return { relay, proxy, seen, gaps, sockets: () => sockets };
}

/** until resolves when something that has an onStatus fulfils a condition: now or after one of its changes. */
export const until = (on: { onStatus(handler: () => void): () => void }, condition: () => boolean) =>
  new Promise<void>((resolve) => {
    let off: (() => void) | undefined;
    let done = false;
    off = on.onStatus(() => {
      if (!condition()) return;
      done = true;
      off?.();
      resolve();
    });
    if (done) off();
  });
export const isLive = (relay: Relay<Numbers>) => until(relay, () => relay.status.state === "live");
