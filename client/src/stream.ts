// Events as an async iterator.

const bound = 1000; // events that wait for the consumer

/**
 * stream yields what `listen` hands to `take`, until `end` is called; then it throws the error, unless quiet. A consumer that falls behind
 * by more than 1,000 events gets those, then an error: never an event after a hole.
 */
export async function* stream<T>(
  listen: (take: (value: T) => void, end: (error: Error, quiet?: boolean) => void) => () => void,
): AsyncGenerator<T, void, void> {
  const queue: T[] = [];
  let over: { error: Error; quiet: boolean | undefined } | undefined;
  let wake: (() => void) | undefined;
  const end = (error: Error, quiet?: boolean) => {
    over ??= { error, quiet };
    wake?.();
  };
  const stop = listen((value) => {
    if (queue.length === bound) end(new Error(`more than ${bound} events behind: load your state anew`));
    if (over) return;
    queue.push(value);
    wake?.();
  }, end);
  try {
    for (;;) {
      while (queue.length) yield queue.shift() as T;
      if (over?.quiet) return;
      if (over) throw over.error;
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
  } finally {
    stop();
  }
}
