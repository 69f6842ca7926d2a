// Events as an async iterator.

const bound = 1000; // events that wait for the consumer

/** How a stream ends: with an error, or without one after `close()`. */
export type End = { error?: Error };

/**
 * stream yields what `listen` hands to `take`. A consumer that falls behind by more than 1,000 events gets those, then an error: never
 * an event after a hole.
 */
export async function* stream<T>(listen: (take: (value: T) => void, end: (end: End) => void) => () => void): AsyncGenerator<T, void, void> {
  const queue: T[] = [];
  let over: End | undefined;
  let wake: (() => void) | undefined;
  const finish = (end: End) => {
    over ??= end;
    wake?.();
  };
  const stop = listen((value) => {
    if (over) return;
    if (queue.length === bound) return finish({ error: new Error(`this loop is more than ${bound} events behind: load your state anew and start it again`) });
    queue.push(value);
    wake?.();
  }, finish);
  try {
    for (;;) {
      for (let value = queue.shift(); value !== undefined; value = queue.shift()) yield value;
      if (over?.error) throw over.error;
      if (over) return;
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
  } finally {
    stop();
  }
}
