/** The server's types, by the names this package calls them; `schema.ts` is made from its OpenAPI document. */

import type { schemas } from "./schema.js";

type Said<T> = { [K in keyof T]?: Exclude<T[K], null> };

export type Filter = Record<string, unknown>;
export type Rationale = schemas["RationaleBody"];
/** One text, embedded: `embedding` is decoded. */
export type Embedding = Omit<schemas["EmbedItem"], "embedding"> & { embedding: Float32Array };
export type Embeddings = Omit<schemas["EmbedResponse"], "data"> & { data: Embedding[] };
export type EmbedOptions = Said<Omit<schemas["EmbedRequest"], "input" | "encoding_format" | "stream">>;
export type Text = string | schemas["SideIn"];
export type ExplainOptions = Said<Omit<schemas["ExplainRequest"], "first" | "second">>;
/** A score and all it is made of: exact arithmetic, not a claim about causes. */
export type Comparison = schemas["ExplainResponse"];
export type SearchOptions = Said<Omit<schemas["SearchIn"], "query" | "vector" | "filter">> & { filter?: Filter };
export type Found = schemas["SearchOut"];
export type Hit = schemas["HitOut"];
export type Index = schemas["IndexOut"];
export type IndexSettings = Said<schemas["SettingsIn"]>;
export type Alias = schemas["AliasOut"];
export type Job = schemas["JobOut"];
export type Failure = schemas["JobFailureOut"];
export type Written = schemas["WrittenOut"];
export type StoredDocument = schemas["DocumentOut"];
export type Page = schemas["DocumentPage"];
export type Info = schemas["Info"];

/** With a rationale, that one is pooled; with a vector, no model is asked. */
export interface DocumentInput {
  id: string;
  text?: string;
  metadata?: Record<string, unknown>;
  rationale?: string;
  vector?: ArrayLike<number>;
}
