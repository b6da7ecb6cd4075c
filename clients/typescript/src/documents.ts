/** Documents of an index: write, read, delete. */

import { type CallOptions, type Http, segment } from "./http.js";
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
  failures: Failure[];
  jobs: string[];
}

const PAGE = 1000;
const MAX_BATCH_CHARS = 2 ** 21; // a server takes 16 MiB unless told otherwise, and a character may be four bytes

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
    const signal = options.signal ? { signal: options.signal } : {};
    const body = { documents: documents.map(plain) };
    const written = await this.#http.call<Written>("POST", path(index), { ...signal, body, idempotent: true });
    if (options.wait === false || written.job.finished_at !== null) return written;
    return { ...written, job: await this.#jobs.wait(written.job.id, signal) };
  }

  /**
   * Write any number of documents. They are taken from the source only as batches finish; a server without room (429) is
   * waited for as long as it asks. Throws if a batch cannot be written; those before it are, and uploading again is safe.
   */
  async upload(
    index: string,
    documents: Iterable<DocumentInput> | AsyncIterable<DocumentInput>,
    options: UploadOptions = {},
  ): Promise<Uploaded> {
    const done: Uploaded = { written: 0, unchanged: 0, failed: 0, failures: [], jobs: [] };
    const batches = batchesOf(documents, options.batchSize ?? 128);
    const work = async () => {
      for (let next = await batches.next(); !next.done; next = await batches.next()) {
        const written = await this.upsert(index, next.value, options);
        done.written += written.documents;
        done.unchanged += written.unchanged;
        done.failed += written.job.failed;
        done.failures.push(...written.job.failures);
        done.jobs.push(written.job.id);
        options.progress?.({ ...done });
      }
    };
    try {
      await Promise.all(Array.from({ length: options.atOnce ?? 4 }, work));
    } finally {
      await batches.return(undefined);
    }
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
}

function path(index: string): string {
  return `/indexes/${segment(index)}/documents`;
}

/** Typed arrays have no JSON of their own. */
function plain(document: DocumentInput): unknown {
  return document.vector ? { ...document, vector: Array.from(document.vector) } : document;
}

async function* batchesOf(
  documents: Iterable<DocumentInput> | AsyncIterable<DocumentInput>,
  size: number,
): AsyncGenerator<DocumentInput[], undefined> {
  if (!(size >= 1)) throw new RangeError(`batchSize must be at least 1, got ${size}`);
  let batch: DocumentInput[] = [];
  let chars = 0;
  for await (const document of documents) {
    const more = (document.text?.length ?? 0) + (document.rationale?.length ?? 0) + 12 * (document.vector?.length ?? 0);
    if (batch.length > 0 && (batch.length >= size || chars + more > MAX_BATCH_CHARS)) {
      yield batch;
      batch = [];
      chars = 0;
    }
    batch.push(document);
    chars += more;
  }
  if (batch.length > 0) yield batch;
  return undefined;
}
