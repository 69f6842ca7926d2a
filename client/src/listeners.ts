// A list of callbacks that can't hurt each other.

import type { Env } from "./options.js";

/** Takes a handler off again. */
export type Unsubscribe = () => void;

export const listeners = <T>({ call }: Env) => {
  const all = new Set<(value: T) => unknown>();
  return {
    /** `run` must be a function that isn't there already. With a value, that is handed to it at once. */
    add(run: (value: T) => unknown, now?: T): Unsubscribe {
      all.add(run);
      if (now) call(run, now);
      return () => {
        all.delete(run);
      };
    },
    /** Those added meanwhile aren't called, nor those taken off. */
    emit(value: T) {
      for (const run of [...all]) if (all.has(run)) call(run, value);
    },
  };
};
