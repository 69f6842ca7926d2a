// How long to wait before the next try.

/** Full jitter: anything from 0 to a bound that doubles from 0.5 s to 30 s with the tries that have failed before. */
export const backoff = (random: () => number, tries: number) => random() * Math.min(30_000, 500 * 2 ** tries);
