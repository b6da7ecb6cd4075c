/** Embeddings, with the vector decoded. */

import type { schemas } from "./schema.js";
import type { Embedding, Embeddings } from "./types.js";
import { decode } from "./vectors.js";

export type RawEmbedding = Omit<schemas["EmbedItem"], "embedding"> & { embedding: string };
export type RawEmbeddings = Omit<schemas["EmbedResponse"], "data"> & { data: RawEmbedding[] };

export function embeddingOf(raw: RawEmbedding): Embedding {
  return { ...raw, embedding: decode(raw.embedding) };
}

export function embeddingsOf(raw: RawEmbeddings): Embeddings {
  return { ...raw, data: raw.data.map(embeddingOf) };
}
