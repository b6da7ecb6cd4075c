/** Several batches at once. */

/**
 * `work` on each item of `source`, of which no more are taken than are under way: `atOnce`. The first error ends it: no
 * other item is taken, and what is under way is aborted through the signal that `work` was given. So does `outer`, though
 * the source may still owe an item: it is told that no more is wanted, and not waited for.
 */
export async function several<T>(
  source: Iterator<T> | AsyncIterator<T>,
  atOnce: number,
  outer: AbortSignal | undefined,
  work: (item: T, signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const inner = new AbortController();
  const { signal } = inner;
  const onAbort = () => inner.abort(outer?.reason);
  if (outer?.aborted) onAbort();
  outer?.addEventListener("abort", onAbort, { once: true });
  let owed = 0; // items that the source was asked for and has not given
  const worker = async () => {
    try {
      while (!signal.aborted) {
        owed += 1;
        const item = Promise.resolve(source.next()).finally(() => (owed -= 1));
        const next = await unlessAborted(item, signal);
        if (next.done) return;
        signal.throwIfAborted();
        await work(next.value, signal);
      }
    } catch (error) {
      inner.abort(error);
    }
  };
  try {
    await Promise.all(Array.from({ length: atOnce }, worker));
    signal.throwIfAborted();
  } finally {
    outer?.removeEventListener("abort", onAbort);
    const left = Promise.resolve(source.return?.());
    if (owed === 0) await left;
    else left.catch(() => undefined);
  }
}

/** A promise, or the signal's reason if that comes first. */
function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason);
    signal.addEventListener("abort", abort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", abort));
  });
}

/** An option that counts something: with 0, nothing would be sent and nothing said. */
export function positive(name: string, value: number): number {
  if (!(Number.isInteger(value) && value >= 1)) throw new RangeError(`${name} must be a whole number of at least 1, got ${value}`);
  return value;
}
