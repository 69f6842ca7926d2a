// Notices a connection that died without a close: browsers can't see the server's pings.

import { alarm, type Env } from "./options.js";

const silence = 25_000; // without a message: ask
const answer = 5_000; // without an answer: dead. Also the shortest time between two pings

/** watchdog asks by `ping` after 25 s of silence and calls `dead` when nothing has come 5 s after that. */
export const watchdog = (env: Env, ping: () => void, dead: () => void) => {
  let heard = 0;
  let asked = false; // and not answered
  let last = 0; // ping
  const ask = () => {
    asked = true;
    last = env.clock.now();
    timer(answer);
    ping();
  };
  const check = () => {
    const left = silence - Math.abs(env.clock.now() - heard); // the clock may have been set back
    if (asked) dead();
    else if (left > 0) timer(left);
    else ask();
  };
  const timer = alarm(env, check);
  return {
    /** A message has come. */
    hear() {
      heard = env.clock.now();
      asked = false;
    },
    start: check,
    /** Ask now, unless that has just been done. */
    probe() {
      if (Math.abs(env.clock.now() - last) >= answer) ask();
    },
    stop: timer,
  };
};
