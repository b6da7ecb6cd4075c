/** One server: requests with retries and a deadline, answers as JSON or as events. */

import { ApiError, BadAnswer, ConnectionFailed, GraceError, TimedOut, envelope, retryAfterS } from "./errors.js";
import { EventParser, type ServerEvent } from "./events.js";
import { RETRIES, type Retries, isSafe, waitS } from "./retries.js";

export interface Options {
  /** Sent as `Authorization: Bearer`. */
  apiKey?: string;
  /**
   * Of a whole request; of the silence between two events in a stream. Writing a rationale takes as long as it takes: ten
   * minutes by default. Node's own `fetch` waits 300 s for an answer and between two parts of it, whatever is said here;
   * a `fetch` that waits longer can be given. From 2^31 on, where timers end, it is no limit: `Infinity` says so.
   */
  timeoutMs?: number;
  retries?: Partial<Retries>;
  headers?: Record<string, string>;
  /** Stands in for the network. */
  fetch?: typeof globalThis.fetch;
}

/** For one call: a signal that ends it, here and on the server. */
export interface CallOptions {
  signal?: AbortSignal;
}

export interface Call extends CallOptions {
  body?: unknown;
  /** Instead of `body`, one that is JSON already. */
  json?: string;
  query?: Record<string, string | number | undefined>;
  /** Doing it twice does no harm. GET, PUT and DELETE are. */
  idempotent?: boolean;
  retry?: boolean;
  /** A server without room that says when to come again costs no attempt. */
  patient?: boolean;
}

const TIMEOUT_MS = 600_000;
const NO_LIMIT_MS = 2 ** 31; // a timer of that much or more goes off at once
const NODE_GAVE_UP = new Set(["UND_ERR_HEADERS_TIMEOUT", "UND_ERR_BODY_TIMEOUT"]);

export class Http {
  readonly url: string;
  readonly #headers: Record<string, string>;
  readonly #timeoutMs: number;
  readonly #retries: Retries;
  readonly #fetch: typeof globalThis.fetch;

  constructor(url: string, options: Options = {}) {
    if (!/^https?:\/\//.test(url)) throw new TypeError(`url must begin with http:// or https://, got ${url}`);
    this.url = url.replace(/\/+$/, "");
    this.#headers = { accept: "application/json", ...sendable(options.headers) };
    if (options.apiKey) this.#headers["authorization"] = bearer(options.apiKey);
    this.#timeoutMs = options.timeoutMs ?? TIMEOUT_MS;
    if (!(this.#timeoutMs > 0)) throw new RangeError(`timeoutMs must be more than 0, got ${this.#timeoutMs}`);
    this.#retries = { ...RETRIES, ...options.retries };
    this.#fetch = options.fetch ?? globalThis.fetch.bind(globalThis);
  }

  /** Ask, and read the answer as JSON. */
  async call<T>(method: string, path: string, call: Call = {}): Promise<T> {
    return this.#repeated(method, path, call, async (response) => {
      const text = await response.text();
      try {
        return JSON.parse(text) as T;
      } catch (cause) {
        throw new BadAnswer("the answer is no JSON", requestIdOf(response), { cause });
      }
    });
  }

  /** Ask, and read the answer as text. */
  async text(method: string, path: string, call: Call = {}): Promise<string> {
    return this.#repeated(method, path, call, (response) => response.text());
  }

  /**
   * The events of an answer as they come. Only its beginning is retried; an event named `error` is thrown. Leaving the
   * loop closes the connection, which ends the work behind it.
   */
  async *events(method: string, path: string, call: Call = {}): AsyncGenerator<ServerEvent> {
    const silence = new Deadline(this.#timeoutMs, call.signal);
    try {
      const inner = { ...call, signal: silence.signal, idempotent: true };
      const response = await this.#repeated(method, path, inner, async (found) => found, silence);
      const requestId = requestIdOf(response);
      if (!response.headers.get("content-type")?.startsWith("text/event-stream") || response.body === null)
        throw new BadAnswer("the answer is no stream of events", requestId);
      const parser = new EventParser();
      const decoder = new TextDecoder();
      for await (const chunk of chunksOf(response.body)) {
        silence.renew();
        for (const event of parser.feed(decoder.decode(chunk, { stream: true }))) {
          if (event.name === "error") throw new ApiError(envelope(event.data), 500, requestId);
          silence.stop(); // how long the reader takes is no silence of the server
          yield event;
          silence.renew();
        }
      }
    } catch (error) {
      throw silence.translated(error, null);
    } finally {
      silence.end();
    }
  }

  async #repeated<T>(
    method: string,
    path: string,
    call: Call,
    read: (response: Response) => Promise<T>,
    shared?: Deadline,
  ): Promise<T> {
    const requestId = crypto.randomUUID().replaceAll("-", "");
    for (let attempt = 1; ; attempt++) {
      const deadline = shared ?? new Deadline(this.#timeoutMs, call.signal);
      try {
        return await read(await this.#once(method, path, call, requestId, deadline));
      } catch (error) {
        const told = deadline.translated(error, requestId);
        const wait = call.retry === false ? null : waitS(this.#retries, told, attempt, call.idempotent ?? isSafe(method));
        if (wait === null) throw told;
        if (call.patient && told instanceof ApiError && told.status === 429 && told.retryAfterS !== null) attempt--;
        deadline.stop();
        await pause(wait * 1000, call.signal);
      } finally {
        if (shared === undefined) deadline.end();
        else shared.renew();
      }
    }
  }

  async #once(method: string, path: string, call: Call, requestId: string, deadline: Deadline): Promise<Response> {
    const headers: Record<string, string> = { ...this.#headers, "x-request-id": requestId };
    const init: RequestInit = { method, headers, signal: deadline.signal };
    if (call.json !== undefined || call.body !== undefined) {
      headers["content-type"] = "application/json";
      init.body = call.json ?? JSON.stringify(call.body);
    }
    const response = await this.#fetch(this.url + path + queryOf(call.query), init);
    if (response.ok) return response;
    throw new ApiError(
      envelope(await response.text()),
      response.status,
      requestIdOf(response) ?? requestId,
      retryAfterS(response.headers.get("retry-after")),
    );
  }
}

/** Ends a request after a time without life, or when the caller's signal says so. */
class Deadline {
  readonly #controller = new AbortController();
  readonly #ms: number;
  readonly #outer: AbortSignal | undefined;
  readonly #onAbort = () => this.#controller.abort(this.#outer?.reason);
  #timer: ReturnType<typeof setTimeout> | undefined;
  #over = false;

  constructor(ms: number, outer: AbortSignal | undefined) {
    this.#ms = ms;
    this.#outer = outer;
    if (outer?.aborted) this.#onAbort();
    outer?.addEventListener("abort", this.#onAbort, { once: true });
    this.renew();
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  renew(): void {
    this.stop();
    if (!hasLimit(this.#ms)) return;
    this.#timer = setTimeout(() => {
      this.#over = true;
      this.#controller.abort();
    }, this.#ms);
  }

  /** Until it is renewed: for time that somebody else takes. */
  stop(): void {
    clearTimeout(this.#timer);
  }

  end(): void {
    this.stop();
    this.#outer?.removeEventListener("abort", this.#onAbort);
    this.#controller.abort();
  }

  /** What went wrong, in this package's words; the caller's own abort stays what it is. */
  translated(error: unknown, requestId: string | null): unknown {
    if (error instanceof GraceError) return error;
    if (this.#over) return new TimedOut(`no answer within ${this.#ms} ms`, requestId, { cause: error });
    if (this.#outer?.aborted) return this.#outer.reason;
    if (NODE_GAVE_UP.has(codeOf(error))) {
      const why = "Node's fetch waits 300 s at most unless a `fetch` that waits longer is given";
      return new TimedOut(`no answer in time: ${why}`, requestId, { cause: error });
    }
    const what = error instanceof Error ? `${error.message} ${String(error.cause ?? "")}`.trim() : String(error);
    return new ConnectionFailed(`the connection failed: ${what}`, requestId, { cause: error });
  }
}

/** Whether a time is one: timers count in 31 bits, and what is over them means "however long it takes". */
export function hasLimit(ms: number): boolean {
  return ms < NO_LIMIT_MS;
}

/**
 * The header in which a key is sent; space around it, as the line end of a file it was read from, is no part of it. What
 * no server can have as its key is refused without naming it: errors end in logs.
 */
function bearer(apiKey: string): string {
  const key = apiKey.trim();
  if (!/^[!-~]+$/.test(key)) throw new TypeError("apiKey holds characters that a header cannot");
  return `Bearer ${key}`;
}

/** Headers, if they can be sent; `fetch` would quote the one that cannot, at each request. */
function sendable(headers: Record<string, string> = {}): Record<string, string> {
  try {
    new Headers(headers);
  } catch {
    throw new TypeError("headers hold characters that a header cannot");
  }
  return headers;
}

/** What Node's fetch says went wrong below it; empty where there is no such thing. */
function codeOf(error: unknown): string {
  const cause: unknown = error instanceof Error ? error.cause : undefined;
  return cause instanceof Error && "code" in cause ? String(cause.code) : "";
}

/** Browsers without async iteration of streams have readers. */
async function* chunksOf(body: ReadableStream<Uint8Array>): AsyncGenerator<Uint8Array> {
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}

function requestIdOf(response: Response): string | null {
  return response.headers.get("x-request-id");
}

function queryOf(query: Call["query"]): string {
  const said = Object.entries(query ?? {}).filter((entry): entry is [string, string | number] => entry[1] !== undefined);
  return said.length === 0 ? "" : `?${new URLSearchParams(said.map(([name, value]) => [name, String(value)]))}`;
}

/** Wait, unless the signal ends it. */
export function pause(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const abort = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", abort);
      resolve();
    }, ms);
    signal?.addEventListener("abort", abort, { once: true });
  });
}

/**
 * A name as one part of a path, whatever it holds. An empty one would name the collection instead; "." and ".." are steps
 * in a path, which URL parsers take even when they are percent-encoded. These three are refused.
 */
export function segment(name: string): string {
  if (name === "" || name === "." || name === "..") throw new RangeError(`${JSON.stringify(name)} cannot be a part of a path`);
  // Lone surrogates have no UTF-8; the server would read them as U+FFFD, and so would nobody else.
  return encodeURIComponent(name.replace(/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, "\ufffd"));
}
