// Hits, ranked by what is left of their scores when sentences are taken out: of the query, of any document.

import { scoreOf } from "./attribution.js";
import { count, el, show } from "./dom.js";
import { hitCard, pieceBox } from "./hit.js";

export class Ranking {
  // `keep` says for the query and for each hit which sentences count; `picked` is the pair looked at.
  // Only cosines can be made again from what is left: other rankings keep their order.
  constructor(answer, metric) {
    this.hits = answer.hits.map((hit, at) => ({
      ...hit,
      served: at + 1,
      keep: hit.explanation ? hit.explanation.document.map(() => true) : [],
    }));
    const explained = this.hits.filter((hit) => hit.explanation);
    this.query = explained.length ? explained[0].explanation.query : [];
    this.keep = this.query.map(() => true);
    this.picked = null; // {hit, pair}
    this.movable = metric === "cosine" && this.hits.every((hit) => hit.explanation && hit.dense === null && hit.explanation.query_gram && hit.explanation.document_gram);
    this.unfolded = new Set(); // what was opened stays open when the ranking moves
    this.list = el("div", { class: "hits" });
    this.chips = el("p", { class: "words tinted" });
    this.note = el("p", { class: "fine", role: "status" });
    this.back = el("button", { type: "button", onclick: () => this.putBack() }, "Put all back");
    const { embed, search } = answer.timing_ms;
    this.nodes = [
      el("p", { class: "fine", role: "status" }, `${count(this.hits.length, "hit")} · ${embed.toFixed(0)} ms to embed the query, ${search.toFixed(1)} ms to search · ${answer.exact ? "exact" : "approximate"}`),
      this.query.length
        ? el("div", { class: "card query" }, el("h3", {}, "The query as it was understood"), this.chips, el("div", { class: "actions tight" }, this.note, this.back))
        : answer.query.rationale && el("div", { class: "card query" }, el("h3", {}, "Rationale of the query"), el("p", { class: "words" }, answer.query.rationale.text)),
      this.list,
    ];
    this.draw();
  }

  // The score of what is kept; null where nothing is.
  score(hit) {
    if (!this.movable || this.all(hit)) return hit.score;
    const { table, query_gram: first, document_gram: second } = hit.explanation;
    return scoreOf({ table, first: { gram: first }, second: { gram: second } }, this.keep, hit.keep);
  }

  all(hit) {
    return this.keep.every(Boolean) && hit.keep.every(Boolean);
  }

  toggle(keep, at, key) {
    keep[at] = !keep[at];
    this.draw(key);
  }

  pick(hit, pair, key) {
    this.picked = this.picked && this.picked.hit === hit && this.picked.pair === pair ? null : { hit, pair };
    this.draw(key);
  }

  putBack() {
    for (const keep of [this.keep, ...this.hits.map((hit) => hit.keep)]) keep.fill(true);
    this.draw();
  }

  // `key` names what had the focus: everything is drawn anew, and it has it again.
  draw(key) {
    const before = places(this.list);
    this.unfolded = new Set([...this.list.querySelectorAll("details[open]")].map((fold) => fold.dataset.fold));
    const ranked = this.hits.map((hit) => ({ hit, score: this.score(hit) }));
    ranked.sort((a, b) => (b.score ?? -2) - (a.score ?? -2) || a.hit.served - b.hit.served);
    show(this.chips, ...this.query.map((piece, at) => this.chip(piece, at)));
    show(this.list, ...ranked.map(({ hit, score }, at) => hitCard(this, hit, score, at + 1)));
    const out = [this.keep, ...this.hits.map((hit) => hit.keep)].flat().filter((kept) => !kept).length;
    this.back.hidden = !out;
    this.note.textContent = this.words(out, ranked);
    move(this.list, before);
    const focused = key && [...this.chips.children, ...this.list.querySelectorAll("[data-key]")].find((node) => node.dataset.key === key);
    if (focused) focused.focus({ preventScroll: true });
  }

  words(out, ranked) {
    if (!this.movable) return "Taking sentences out moves nothing here: this ranking is not made of cosines alone, or a document has over 500 sentences.";
    if (!out) return "Take a sentence out, here or in a hit, and watch the ranking. The model is not asked again.";
    const moved = ranked.filter(({ hit }, at) => hit.served !== at + 1).length;
    return `${count(out, "sentence")} taken out; ${moved ? `${count(moved, "hit")} moved` : "the order stays"}, among these hits.`;
  }

  chip(piece, at) {
    const pair = this.picked && this.picked.pair;
    return pieceBox(piece, {
      key: `query ${at}`,
      kept: this.keep[at],
      picked: Boolean(pair) && pair.query === at,
      fixed: !this.movable,
      toggle: () => this.toggle(this.keep, at, `query ${at}`),
    });
  }
}

function places(list) {
  return new Map([...list.children].map((node) => [node.dataset.hit, node.getBoundingClientRect().top]));
}

// Cards slide from where they were to where they are.
function move(list, before) {
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  for (const node of list.children) {
    const was = before.get(node.dataset.hit);
    const by = was === undefined ? 0 : was - node.getBoundingClientRect().top;
    if (Math.abs(by) > 1) node.animate([{ transform: `translateY(${by}px)` }, { transform: "none" }], { duration: 300, easing: "ease-out" });
  }
}
