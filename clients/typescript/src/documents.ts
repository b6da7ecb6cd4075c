/** Documents of an index: write, read, delete. */

import { positive, several } from "./batches.js";
import { type Call, type CallOptions, type Http, segment } from "./http.js";
import type { Jobs } from "./jobs.js";
import type { DocumentInput, Failure, Filter, Page, StoredDocument, Written } from "./types.js";

export interface UploadOptions extends CallOptions {
  batchSize?: number;
  /** Batches under way; no more of the source is read. */
  atOnce?: number;
  /** Until they are embedded; else until they are durable. */
  wait?: boolean;
  progress?: (done: Uploaded) => void;
}

export interface Uploaded {
  written: number;
  /** Were there with the same contents. */
  unchanged: number;
  /** Could not be embedded. */
  failed: number;
  /** Not embedded, since someone stopped the job; uploading again embeds them. */
  cancelled: number;
  failures: Failure[];
  jobs: string[];
}

const PAGE = 1000;
const MAX_BATCH_BYTES = 4 * 2 ** 20; // a server takes 16 MiB unless told otherwise

export class Documents {
  readonly #http: Http;
  readonly #jobs: Jobs;

  constructor(http: Http, jobs: Jobs) {
    this.#http = http;
    this.#jobs = jobs;
  }

  /**
   * Write up to 10,000 documents by id, all or none. Sending again is safe. With `wait` (the default) it returns when all
   * are embedded or have failed (`job.failures`); without, when all are durable.
   */
  async upsert(
    index: string,
    documents: DocumentInput[],
    options: CallOptions & { wait?: boolean } = {},
  ): Promise<Written> {
    const { signal, wait } = options;
    return this.#write(index, { ...(signal && { signal }), body: { documents: documents.map(plain) } }, wait);
  }

  /**
   * Write any number of documents. They are taken from the source only as batches finish; a server without room (429) is
   * waited for as often as it says when to come again, if that is within `retries.longestWaitS`; only with one attempt in
   * all it is not. Throws if a batch cannot be written, and ends the others under way; those before it are written, and
   * uploading again is safe.
   */
  async upload(
    index: string,
    documents: Iterable<DocumentInput> | AsyncIterable<DocumentInput>,
    options: UploadOptions = {},
  ): Promise<Uploaded> {
    const done: Uploaded = { written: 0, unchanged: 0, failed: 0, cancelled: 0, failures: [], jobs: [] };
    const batches = batchesOf(documents, positive("batchSize", options.batchSize ?? 128));
    await several(batches, positive("atOnce", options.atOnce ?? 4), options.signal, async (json, signal) => {
      const written = await this.#write(index, { signal, json, patient: true }, options.wait);
      done.written += written.documents;
      done.unchanged += written.unchanged;
      done.failed += written.job.failed;
      if (written.job.state === "cancelled") done.cancelled += written.job.left;
      done.failures.push(...written.job.failures);
      done.jobs.push(written.job.id);
      options.progress?.({ ...done });
    });
    return done;
  }

  /** A document, in whichever state. */
  get(index: string, id: string, options: CallOptions = {}): Promise<StoredDocument> {
    return this.#http.call("GET", `${path(index)}/${segment(id)}`, options);
  }

  /** All documents in the order of their ids, a page at a time. */
  async *list(
    index: string,
    options: CallOptions & { filter?: Filter; state?: StoredDocument["state"]; after?: string } = {},
  ): AsyncGenerator<StoredDocument> {
    const { filter, state, after, ...call } = options;
    const query = { filter: filter && JSON.stringify(filter), state, limit: PAGE };
    for (let next: string | null = after ?? ""; next !== null; ) {
      const page: Page = await this.#http.call("GET", path(index), { ...call, query: { ...query, after: next } });
      yield* page.data;
      next = page.next;
    }
  }

  /** Delete by ids or by a filter; how many were there. Ids that are not there are no error. */
  async delete(
    index: string,
    which: { ids: string[] } | { filter: Filter },
    options: CallOptions = {},
  ): Promise<number> {
    const to = `/indexes/${segment(index)}/delete`;
    return (await this.#http.call<{ deleted: number }>("POST", to, { ...options, body: which, idempotent: true })).deleted;
  }

  async #write(index: string, call: Call, wait = true): Promise<Written> {
    const written = await this.#http.call<Written>("POST", path(index), { ...call, idempotent: true });
    if (!wait || written.job.finished_at !== null) return written;
    return { ...written, job: await this.#jobs.wait(written.job.id, call.signal && { signal: call.signal }) };
  }
}

function path(index: string): string {
  return `/indexes/${segment(index)}/documents`;
}

/** Typed arrays have no JSON of their own. */
function plain(document: DocumentInput): unknown {
  return document.vector ? { ...document, vector: Array.from(document.vector) } : document;
}

/** Bodies of up to `size` documents and a few megabytes; a single document may be larger. */
async function* batchesOf(
  documents: Iterable<DocumentInput> | AsyncIterable<DocumentInput>,
  size: number,
): AsyncGenerator<string, undefined> {
  const encoder = new TextEncoder();
  let parts: string[] = [];
  let bytes = 0;
  for await (const document of documents) {
    const part = JSON.stringify(plain(document));
    const more = encoder.encode(part).length + 1;
    if (parts.length > 0 && (parts.length >= size || bytes + more > MAX_BATCH_BYTES)) {
      yield bodyOf(parts);
      parts = [];
      bytes = 0;
    }
    parts.push(part);
    bytes += more;
  }
  if (parts.length > 0) yield bodyOf(parts);
  return undefined;
}

function bodyOf(documents: string[]): string {
  return `{"documents":[${documents.join(",")}]}`;
}
