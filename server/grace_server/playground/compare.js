// Compare: the score of two texts, sentence by sentence, and without the sentences that are taken out.

import { json } from "./api.js";
import { scaled, scoreOf } from "./attribution.js";
import { busy, byId, el, empty, number, runner, shareBar, show, tint } from "./dom.js";

const NAMES = { input: "text", template: "template", rationale: "rationale" };

export function opened() {}

export function start() {
  const form = byId("compare-form");
  const out = byId("compare-out");
  const run = runner(byId("compare-go"), out);
  show(out, empty("Two texts, and their score comes apart here."));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    run(async (signal) => {
      show(out, busy("Both texts are being read and reasoned about"));
      const body = {
        first: byId("compare-first").value,
        second: byId("compare-second").value,
        mode: form.elements.mode.value,
        pooling: form.elements.pooling.value || null,
        dimensions: form.elements.dimensions.value ? Number(form.elements.dimensions.value) : null,
      };
      const found = await json("explain", { method: "POST", body, signal });
      show(out, ...new Comparison(found).nodes);
    });
  });
}

class Comparison {
  // `picked` is the sentence looked at: {side, at}, or null; `keep` says for each side what counts.
  constructor(found) {
    this.found = found;
    this.fixed = !found.first.gram || !found.second.gram; // too long to leave out any set of sentences
    this.picked = null;
    this.keep = { first: found.first.segments.map(() => true), second: found.second.segments.map(() => true) };
    this.output = el("output", { "aria-live": "polite" });
    this.moved = el("span", { class: "fine" });
    this.reset = el("button", { type: "button", onclick: () => this.putBack() }, "Put all back");
    this.rows = { first: this.list("first"), second: this.list("second") };
    this.nodes = [
      el("div", { class: "score" }, el("span", {}, "Score"), this.output, this.moved, this.reset),
      el("div", { class: "two" }, this.side("first", "Query"), this.side("second", "Document")),
      this.pairs(),
      this.table(),
    ];
    this.draw();
  }

  side(name, title) {
    const { sources, rationale } = this.found[name];
    return el(
      "div",
      {},
      el("h3", {}, title),
      shareBar(sources.map(({ source, share }) => [source, share]), "The score comes from"),
      rationale ? null : el("p", { class: "fine" }, "No rationale was written."),
      el("ul", { class: "rows" }, ...this.rows[name].map((row) => row.node)),
    );
  }

  list(name) {
    return this.found[name].segments.map((segment, at) => {
      const words = segment.text.trim() || "turn markers";
      const figure = el("span", { class: "figure" });
      const check = el("input", { type: "checkbox", checked: true, disabled: this.fixed, "aria-label": `count: ${words}` });
      check.addEventListener("change", () => {
        this.keep[name][at] = check.checked;
        this.draw();
      });
      const button = el(
        "button",
        { type: "button", "aria-pressed": "false", onclick: () => this.pick(name, at) },
        el("span", {}, el("span", { class: "source" }, `${label(this.found, name, at)} ${NAMES[segment.source]}`), words),
        figure,
      );
      return { node: el("li", {}, check, button), check, button, figure };
    });
  }

  pick(side, at) {
    const same = this.picked && this.picked.side === side && this.picked.at === at;
    this.picked = same ? null : { side, at };
    this.draw();
  }

  putBack() {
    for (const side of ["first", "second"]) {
      this.keep[side].fill(true);
      for (const row of this.rows[side]) row.check.checked = true;
    }
    this.picked = null;
    this.draw();
  }

  draw() {
    const score = this.fixed ? this.found.score : scoreOf(this.found, this.keep.first, this.keep.second);
    const out = [...this.keep.first, ...this.keep.second].filter((kept) => !kept).length;
    this.output.textContent = number(score, 4);
    this.moved.textContent = out
      ? score === null
        ? "nothing is left to compare"
        : `${number(this.found.score, 4)} with all; ${out} taken out`
      : "cosine; the sentences below add up to it";
    this.reset.hidden = !out && !this.picked;
    for (const side of ["first", "second"]) {
      const values = this.values(side);
      const strengths = scaled(values);
      this.rows[side].forEach(({ node, button, figure }, at) => {
        node.classList.toggle("out", !this.keep[side][at]);
        button.classList.remove("for", "against");
        tint(button, strengths[at]);
        const picked = this.picked && this.picked.side === side && this.picked.at === at;
        button.setAttribute("aria-pressed", String(Boolean(picked)));
        figure.textContent = number(values[at], 4);
      });
    }
  }

  // What each sentence of a side adds: to the whole score, or together with the sentence looked at on the other side.
  values(side) {
    if (!this.picked || this.picked.side === side) return this.found[side].segments.map((s) => s.contribution);
    const { table } = this.found;
    return side === "second" ? table[this.picked.at] : table.map((row) => row[this.picked.at]);
  }

  pairs() {
    return el(
      "div",
      { class: "card" },
      el("h3", {}, "Pairs that add most"),
      el("ol", { class: "pairs" }, ...this.found.pairs.map(({ first, second, contribution }) => el(
        "li",
        {},
        this.words("first", first),
        el("span", { class: "arrow" }, " × "),
        this.words("second", second),
        el("span", { class: "figure" }, number(contribution, 4)),
      ))),
    );
  }

  words(side, at) {
    return `${label(this.found, side, at)} “${this.found[side].segments[at].text.trim() || "turn markers"}”`;
  }

  table() {
    const { first, second, table } = this.found;
    const strengths = scaled(table.flat());
    const head = el("tr", {}, el("td"), ...second.segments.map((_, j) => el("th", { scope: "col" }, label(this.found, "second", j))));
    const rows = table.map((row, i) => el(
      "tr",
      {},
      el("th", { scope: "row" }, label(this.found, "first", i)),
      ...row.map((value, j) => tint(el("td", {}, number(value, 3)), strengths[i * second.segments.length + j])),
    ));
    return el(
      "details",
      {},
      el("summary", {}, `The whole table: ${first.segments.length} × ${second.segments.length} pairs`),
      el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Table of contributions" }, el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows))),
    );
  }
}

// Q1, Q2, ... for the query's sentences; D1, D2, ... for the document's.
function label(_, side, at) {
  return `${side === "first" ? "Q" : "D"}${at + 1}`;
}
