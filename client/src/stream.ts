// Events as an async iterator.

const bound = 1000; // events that wait for the consumer

/**
 * stream yields what `listen` hands to `take` from now on, until `end` is called; then it throws the error, unless quiet. A consumer that
 * falls behind by more than 1,000 events gets those, then an error: never an event after a hole. `return()` doesn't wait for an event.
 */
export const stream = <T>(
  listen: (take: (value: T) => void, end: (error: Error, quiet?: boolean) => void) => () => void,
): AsyncGenerator<T, void, void> => {
  const queue: T[] = [];
  let over: { error?: Error | undefined } | undefined;
  let wake: (() => void) | undefined;
  let stop: (() => void) | undefined;
  const end = (error?: Error, quiet?: boolean) => {
    if (over) return;
    over = quiet ? {} : { error };
    stop?.();
    wake?.();
  };
  stop = listen((value) => {
    if (queue.length === bound) end(new Error(`more than ${bound} events behind`));
    if (over) return;
    queue.push(value);
    wake?.();
  }, end);
  if (over) stop(); // it ended before there was something to stop
  const events = (async function* () {
    for (;;) {
      while (queue.length) yield queue.shift() as T;
      if (over?.error) throw over.error;
      if (over) return;
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
  })();
  // A generator's own would wait for a pending next(), and run nothing before the first one.
  const leave =
    <V>(how: (value: V) => Promise<IteratorResult<T, void>>) =>
    (value: V) => {
      end();
      return how.call(events, value);
    };
  return Object.assign(events, { return: leave(events.return), throw: leave(events.throw) });
};
