/** The client: one method for each thing the server does. */

import { positive, several } from "./batches.js";
import { Documents } from "./documents.js";
import { ApiError, ConnectionFailed } from "./errors.js";
import { type CallOptions, Http, type Options, pause } from "./http.js";
import { Indexes } from "./indexes.js";
import { Jobs } from "./jobs.js";
import { EmbedStream } from "./stream.js";
import { type RawEmbeddings, embeddingsOf } from "./embeddings.js";
import type { Comparison, EmbedOptions, Embedding, Embeddings, ExplainOptions, Found, Info, SearchOptions, Text } from "./types.js";

export class GraceClient {
  readonly indexes: Indexes;
  readonly documents: Documents;
  readonly jobs: Jobs;
  readonly #http: Http;

  /** Every method throws `GraceError` for what goes wrong outside, `RangeError` for what is wrong before it is sent. */
  constructor(url = "http://127.0.0.1:8000", options: Options = {}) {
    this.#http = new Http(url, options);
    this.indexes = new Indexes(this.#http);
    this.jobs = new Jobs(this.#http);
    this.documents = new Documents(this.#http, this.jobs);
  }

  /**
   * Embed a text, or several in one request: a rationale is written for each and pooled with it. For more texts than one
   * request takes: `embedEach`.
   */
  async embed(input: string | string[], options: EmbedOptions & CallOptions = {}): Promise<Embeddings> {
    const { signal, ...said } = options;
    const body = { ...said, input, encoding_format: "base64" };
    return embeddingsOf(await this.#http.call<RawEmbeddings>("POST", "/embed", { ...of(signal), body, idempotent: true }));
  }

  /** Embed one text and read the rationale while it is written: `for await (const piece of stream)`, then `stream.result`. */
  embedStream(input: string, options: Omit<EmbedOptions, "n"> & CallOptions = {}): EmbedStream {
    const { signal, ...said } = options;
    const body = { ...said, input, encoding_format: "base64", stream: true };
    return new EmbedStream(this.#http.events("POST", "/embed", { ...of(signal), body }));
  }

  /**
   * Embed any number of texts, in their order: `atOnce` requests of `batchSize` are under way. The first error ends them
   * all.
   */
  async embedEach(
    texts: string[],
    options: EmbedOptions &
      CallOptions & { batchSize?: number; atOnce?: number; progress?: (done: number, total: number) => void } = {},
  ): Promise<Embedding[]> {
    const { batchSize = 32, atOnce = 4, progress, signal: outer, ...rest } = options;
    positive("batchSize", batchSize);
    positive("atOnce", atOnce);
    const { rationale } = rest;
    if (Array.isArray(rationale) && rationale.length !== texts.length)
      throw new RangeError(`rationale must be one for each of the ${texts.length} texts, got ${rationale.length}`);
    const found = new Array<Embedding>(texts.length);
    let done = 0;
    await several(startsOf(texts.length, batchSize), atOnce, outer, async (start, signal) => {
      const end = start + batchSize;
      const own = Array.isArray(rationale) ? { rationale: rationale.slice(start, end) } : {};
      const { data } = await this.embed(texts.slice(start, end), { ...rest, ...own, signal });
      data.forEach((item, i) => (found[start + i] = { ...item, index: start + i }));
      done += data.length;
      progress?.(done, texts.length);
    });
    return found;
  }

  /** The documents nearest to a query, or to a vector. */
  search(query: string | ArrayLike<number>, options: SearchOptions & CallOptions = {}): Promise<Found> {
    const { signal, ...said } = options;
    const asked = typeof query === "string" ? { query } : { vector: Array.from(query) };
    return this.#http.call("POST", "/search", { ...of(signal), body: { ...said, ...asked }, idempotent: true });
  }

  /** What each of several queries finds, in one request. */
  async searchEach(queries: string[], options: SearchOptions & CallOptions = {}): Promise<Found[]> {
    const { signal, ...said } = options;
    const body = { ...said, query: queries };
    const call = { ...of(signal), body, idempotent: true };
    return (await this.#http.call<{ results: Found[] }>("POST", "/search", call)).results;
  }

  /**
   * Take the score of two texts apart, sentence by sentence. `first` is read as a query and `second` as a document; an
   * object with `text` and `role` says otherwise.
   */
  explain(first: Text, second: Text, options: ExplainOptions & CallOptions = {}): Promise<Comparison> {
    const { signal, ...said } = options;
    return this.#http.call("POST", "/explain", { ...of(signal), body: { ...said, first, second }, idempotent: true });
  }

  /** What is served, under which limits and settings. */
  info(options: CallOptions = {}): Promise<Info> {
    return this.#http.call("GET", "/info", options);
  }

  /** Metrics in Prometheus' text format. */
  metrics(options: CallOptions = {}): Promise<string> {
    return this.#http.text("GET", "/metrics", options);
  }

  /** Whether the process runs. No retries. */
  live(options: CallOptions = {}): Promise<boolean> {
    return this.#answers("/livez", options);
  }

  /** Whether it takes requests now: false while it loads or drains, and if nobody answers. No retries. */
  ready(options: CallOptions = {}): Promise<boolean> {
    return this.#answers("/readyz", options);
  }

  /** Return once the server takes requests; give it a signal that ends the waiting. */
  async waitUntilReady(options: CallOptions & { pollMs?: number } = {}): Promise<void> {
    while (!(await this.ready(of(options.signal)))) await pause(options.pollMs ?? 1000, options.signal);
  }

  async #answers(path: string, options: CallOptions): Promise<boolean> {
    try {
      await this.#http.text("GET", path, { ...options, retry: false });
      return true;
    } catch (error) {
      if (error instanceof ConnectionFailed || (error instanceof ApiError && error.status === 503)) return false;
      throw error;
    }
  }
}

function* startsOf(length: number, step: number): Generator<number, undefined> {
  for (let start = 0; start < length; start += step) yield start;
  return undefined;
}

function of(signal: AbortSignal | undefined): CallOptions {
  return signal === undefined ? {} : { signal };
}
