// Renews the token of an open connection before it expires.

import { alarm, type Env } from "./options.js";

const again = 10_000; // after a renewal that brought no token

/** expiryOf returns a JWT's `exp` in ms since 1970, or 0 for what isn't one. */
export const expiryOf = (jwt: string): number => {
  try {
    return JSON.parse(atob((jwt.split(".")[1] as string).replace(/-/g, "+").replace(/_/g, "/"))).exp * 1000;
  } catch {
    return 0;
  }
};

/**
 * renewal calls `renew` a minute before the expiry, or when a fifth of what was left is left; and again every 10 s until it is told of a
 * new expiry. By a clock that says that an accepted token has expired nothing can be planned: the server will close then.
 */
export const renewal = (env: Env, renew: () => void) => {
  let due = 0;
  const plan = (ms: number) => {
    due = env.clock.now() + ms;
    timer(ms);
  };
  const check = () => {
    const left = due - env.clock.now();
    if (left > 0) return timer(left);
    plan(again);
    renew();
  };
  const timer = alarm(env, check);
  return {
    /** After a sleep timers are late: look at the clock. */
    check,
    /** The token expires at this time, in ms since 1970. */
    until(expiry: number) {
      const left = expiry - env.clock.now();
      plan(left > 0 ? Math.max(1000, left * 0.8, left - 60_000) : 1 / 0);
    },
    stop: timer,
  };
};
