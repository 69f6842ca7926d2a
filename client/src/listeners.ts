// A list of callbacks that can't hurt each other.

/** Takes a handler off again. */
export type Unsubscribe = () => void;

export const listeners = <T>(report: (error: unknown) => void) => {
  const all = new Set<(value: T) => unknown>();
  const call = (run: (value: T) => unknown, value: T) => {
    try {
      (run(value) as Promise<unknown> | undefined)?.catch?.(report);
    } catch (error) {
      report(error);
    }
  };
  return {
    /** Each call counts for itself, also with a function that is there already. With a value, it is called with that at once. */
    add(run: (value: T) => unknown, now?: T): Unsubscribe {
      const own = (value: T) => run(value);
      all.add(own);
      if (now !== undefined) call(own, now);
      return () => {
        all.delete(own);
      };
    },
    /** Those added meanwhile aren't called, nor those taken off. */
    emit(value: T) {
      for (const run of [...all]) if (all.has(run)) call(run, value);
    },
  };
};
