// Notices a connection that died without a close: browsers can't see the server's pings.

import { alarm, type Env } from "./options.js";

const silence = 25_000; // without a message: ask
const answer = 5_000; // without an answer: dead. Also the shortest time between two pings

/** watchdog asks by `ping` after 25 s of silence and calls `dead` when nothing has come 5 s after that. */
export const watchdog = (env: Env, ping: () => void, dead: () => void) => {
  let heard = 0;
  let asked = 0; // when, if that hasn't been answered
  let last = 0; // ping
  const timer = alarm(env, () => {
    const now = env.now();
    if (!asked) {
      if (now - heard < silence) timer(silence - now + heard);
      else ask();
    } else if (now - asked < answer) timer(answer - now + asked);
    else dead();
  });
  const ask = () => {
    asked = last = env.now();
    timer(answer);
    ping();
  };
  return {
    /** A message has come. */
    hear() {
      heard = env.now();
      asked = 0;
    },
    start: () => timer(silence),
    /** Ask now, unless that has just been done. */
    probe() {
      if (env.now() - last >= answer) ask();
    },
    stop() {
      asked = 0;
      timer();
    },
  };
};
