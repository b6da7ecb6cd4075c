/** Several batches at once. */

/**
 * `work` on each item of `source`, of which no more are taken than are under way: `atOnce`. The first error ends it: no
 * other item is taken, and what is under way is aborted through the signal that `work` was given.
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
  const worker = async () => {
    try {
      while (!signal.aborted) {
        const next = await source.next();
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
    await source.return?.();
  }
}

/** An option that counts something: with 0, nothing would be sent and nothing said. */
export function positive(name: string, value: number): number {
  if (!(Number.isInteger(value) && value >= 1)) throw new RangeError(`${name} must be a whole number of at least 1, got ${value}`);
  return value;
}
