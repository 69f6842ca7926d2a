// later(t, f) runs f after the test, last registered first (t.after has it the other way round). All run, whatever fails.
const stacks = new WeakMap();

export function later(t, f) {
  let stack = stacks.get(t);
  if (!stack) {
    stacks.set(t, (stack = []));
    t.after(async () => {
      const failed = [];
      while (stack.length) await Promise.resolve().then(stack.pop()).catch((err) => failed.push(err));
      if (failed.length === 1) throw failed[0];
      if (failed.length) throw new AggregateError(failed, failed.map(String).join("\n"));
    });
  }
  stack.push(f);
}
