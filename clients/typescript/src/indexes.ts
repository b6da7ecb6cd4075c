/** Indexes and their aliases. */

import { type CallOptions, type Http, segment } from "./http.js";
import type { Alias, Index, IndexSettings } from "./types.js";

export class Indexes {
  readonly #http: Http;

  constructor(http: Http) {
    this.#http = http;
  }

  /** Create an index. With the settings it has already nothing happens; with others it is a conflict (409). */
  create(name: string, settings?: IndexSettings, options: CallOptions = {}): Promise<Index> {
    return this.#http.call("PUT", path(name), { ...options, body: settings === undefined ? {} : { settings } });
  }

  async list(options: CallOptions = {}): Promise<Index[]> {
    return (await this.#http.call<{ data: Index[] }>("GET", "/indexes", options)).data;
  }

  /** An index, described. An alias does as well. */
  get(name: string, options: CallOptions = {}): Promise<Index> {
    return this.#http.call("GET", path(name), options);
  }

  /** Delete an index with all its documents. By its own name only, not by an alias. */
  async delete(name: string, options: CallOptions = {}): Promise<void> {
    await this.#http.text("DELETE", path(name), options);
  }

  /** Let an alias name an index from now on, whatever it named before. */
  setAlias(alias: string, index: string, options: CallOptions = {}): Promise<Alias> {
    return this.#http.call("PUT", `/aliases/${segment(alias)}`, { ...options, body: { index } });
  }

  /** Give an alias up. Doing it twice is no error. */
  async removeAlias(alias: string, options: CallOptions = {}): Promise<void> {
    await this.#http.text("DELETE", `/aliases/${segment(alias)}`, options);
  }
}

function path(name: string): string {
  return `/indexes/${segment(name)}`;
}
