// Renews the token of an open connection before it expires.

import { alarm, type Env } from "./options.js";

const least = 5_000; // between two renewals

/** expiryOf returns a JWT's `exp` in ms since 1970, or NaN for what isn't one. */
const expiryOf = (jwt: string) => {
  try {
    return JSON.parse(atob((jwt.split(".")[1] ?? "").replace(/-/g, "+").replace(/_/g, "/"))).exp * 1000;
  } catch {
    return Number.NaN;
  }
};

/**
 * renewal calls `renew` a minute before the expiry, or when a fifth of what remains is left. `renew` resolves to the new token, or to
 * nothing if there is none yet: then it is called again 5 s later. By a clock that says that an accepted token has expired, nothing can
 * be planned: the server will close then.
 */
export const renewal = (env: Env, renew: () => Promise<string | undefined>) => {
  let due = 0; // 0: none
  const timer = alarm(env, async () => {
    if (due > env.now()) return check(); // further ahead than a timer goes
    plan(0);
    const token = await renew();
    if (token) until(expiryOf(token));
    else plan(least);
  });
  const check = () => timer(due ? Math.max(0, due - env.now()) : undefined);
  const plan = (ms: number) => {
    due = ms && env.now() + ms;
    check();
  };
  const until = (expiry: number) => {
    const left = expiry - env.now();
    plan(left > 0 ? Math.max(least, left - Math.min(60_000, left / 5)) : 0);
  };
  return {
    /** The token expires at this time, in ms since 1970. */
    until,
    /** After a sleep timers are late: look at the clock. */
    check,
    stop: () => plan(0),
  };
};
