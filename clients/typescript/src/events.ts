/** Server-sent events, from text as it comes. */

export interface ServerEvent {
  name: string;
  data: string;
}

/** Turns pieces of a stream into events; a piece may end anywhere. */
export class EventParser {
  #rest = "";
  #name = "";
  #data: string[] = [];

  /** The events that this piece completes. Comments and unknown fields are passed over. */
  *feed(piece: string): Generator<ServerEvent> {
    const text = this.#rest + piece;
    // A carriage return at the end may be half of a pair, so it waits for the next piece.
    const lines = text.split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop() ?? "";
    for (const line of lines) {
      if (line !== "") {
        this.#field(line);
        continue;
      }
      if (this.#data.length > 0) yield { name: this.#name || "message", data: this.#data.join("\n") };
      this.#name = "";
      this.#data = [];
    }
  }

  #field(line: string): void {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "event") this.#name = value;
    else if (name === "data") this.#data.push(value);
  }
}
