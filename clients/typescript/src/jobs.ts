/** Jobs: the embedding work that writing documents leaves behind. */

import { ApiError, BadAnswer, ConnectionFailed, TimedOut } from "./errors.js";
import { type CallOptions, type Http, hasLimit, pause, segment } from "./http.js";
import type { Job } from "./types.js";

export interface WaitOptions extends CallOptions {
  /** The job goes on when it is over. */
  timeoutMs?: number;
  pollMs?: number;
  progress?: (job: Job) => void;
}

export class Jobs {
  readonly #http: Http;

  constructor(http: Http) {
    this.#http = http;
  }

  get(id: string, options: CallOptions = {}): Promise<Job> {
    return this.#http.call("GET", `/jobs/${segment(id)}`, options);
  }

  /** Stop a job. What is embedded stays; what is not is kept as `cancelled` until it is sent again. */
  cancel(id: string, options: CallOptions = {}): Promise<Job> {
    return this.#http.call("DELETE", `/jobs/${segment(id)}`, options);
  }

  /** Progress at each step, the last time when it is finished. */
  async *events(id: string, options: CallOptions = {}): AsyncGenerator<Job> {
    for await (const event of this.#http.events("GET", `/jobs/${segment(id)}/events`, options)) {
      yield JSON.parse(event.data) as Job;
      if (event.name === "done") return;
    }
  }

  /**
   * The job once it is finished. It listens; where something on the way holds events back, it asks every `pollMs`.
   * Documents may have failed all the same: see `failed` and `failures`.
   */
  async wait(id: string, options: WaitOptions = {}): Promise<Job> {
    const { timeoutMs = Infinity } = options;
    const over = hasLimit(timeoutMs) ? AbortSignal.timeout(timeoutMs) : undefined;
    const signals = [options.signal, over].filter((signal): signal is AbortSignal => signal !== undefined);
    const inner: CallOptions = signals.length > 0 ? { signal: anyOf(signals) } : {};
    try {
      try {
        for await (const job of this.events(id, inner)) {
          options.progress?.(job);
          if (job.finished_at !== null) return job;
        }
      } catch (error) {
        const missed = error instanceof ConnectionFailed || error instanceof BadAnswer;
        if (!missed && !(error instanceof ApiError && error.status >= 500)) throw error;
      }
      for (;;) {
        const job = await this.get(id, inner);
        options.progress?.(job);
        if (job.finished_at !== null) return job;
        await pause(options.pollMs ?? 1000, inner.signal);
      }
    } catch (error) {
      if (over?.aborted && !options.signal?.aborted) throw new TimedOut(`job ${id} is not finished yet; it goes on`);
      throw error;
    }
  }
}

/** `AbortSignal.any`, which Node has since 20.3 and browsers since 2023. */
function anyOf(signals: AbortSignal[]): AbortSignal {
  if ("any" in AbortSignal) return AbortSignal.any(signals);
  const controller = new AbortController();
  for (const signal of signals) signal.addEventListener("abort", () => controller.abort(signal.reason), { once: true });
  return controller.signal;
}
