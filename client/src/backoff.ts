// How long to wait before the next try.

/** Full jitter: anything from 0 to a bound that doubles from 0.5 s to 30 s with each try since the last reset. */
export const backoff = (random: () => number) => {
  let tries = 0;
  return {
    next: () => random() * Math.min(30_000, 500 * 2 ** tries++),
    reset() {
      tries = 0;
    },
  };
};
