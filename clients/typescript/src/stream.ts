/** An embedding whose rationale is read while it is written. */

import { type RawEmbedding, type RawEmbeddings, embeddingOf } from "./embeddings.js";
import { ConnectionFailed } from "./errors.js";
import type { ServerEvent } from "./events.js";
import type { Embedding, Embeddings } from "./types.js";

export class EmbedStream implements AsyncIterable<string> {
  readonly #events: AsyncGenerator<ServerEvent>;
  #result: Embeddings | undefined;

  constructor(events: AsyncGenerator<ServerEvent>) {
    this.#events = events;
  }

  /** The embedding, once the pieces have been read to the end. */
  get result(): Embeddings {
    if (this.#result === undefined) throw new RangeError("read the stream to its end first");
    return this.#result;
  }

  /** Pieces of the rationale, as they come. Leaving the loop early ends the writing. */
  async *[Symbol.asyncIterator](): AsyncGenerator<string> {
    let item: Embedding | undefined;
    for await (const event of this.#events) {
      if (event.name === "rationale") yield (JSON.parse(event.data) as { delta: string }).delta;
      else if (event.name === "embedding") item = embeddingOf(JSON.parse(event.data) as RawEmbedding);
      else if (event.name === "done" && item)
        this.#result = { ...(JSON.parse(event.data) as Omit<RawEmbeddings, "data">), data: [item] };
    }
    if (this.#result === undefined) throw new ConnectionFailed("the stream broke off before the embedding came");
  }

  /** Read to the end. */
  async read(): Promise<Embeddings> {
    for await (const _ of this);
    return this.result;
  }
}
