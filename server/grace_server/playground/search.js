// Search: hits with the sentences their score comes from, and the ranking without one of them.

import { json } from "./api.js";
import { scaled } from "./attribution.js";
import { busy, byId, el, empty, number, problem, runner, show, tint } from "./dom.js";
import * as upload from "./upload.js";

const NAMES = { input: "text", template: "template", rationale: "rationale" };

let chosen = null; // the index searched; kept while the page lives

export function opened() {
  refresh();
}

export function start() {
  upload.start(async (name) => {
    chosen = name;
    await refresh();
  });
  const form = byId("search-form");
  const out = byId("search-out");
  const run = runner(byId("search-go"), out);
  show(out, empty("Choose an index, ask, and press Enter."));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    run(async (signal) => {
      const index = chosen;
      if (index === null) {
        byId("upload").open = true;
        show(out, empty("There is no index to search yet: upload some documents first."));
        return;
      }
      show(out, busy("Searching"));
      const body = {
        index,
        query: byId("search-query").value,
        method: form.elements.method.value,
        k: Number(form.elements.k.value) || 10,
        explain: true,
      };
      const answer = await json("search", { method: "POST", body, signal });
      if (answer.hits.length) show(out, ...new Ranking(answer).nodes);
      else show(out, empty(`Nothing found in “${index}”. Documents can be found by meaning once they are embedded.`));
    });
  });
}

async function refresh() {
  const place = byId("search-indexes");
  try {
    const found = (await json("indexes")).data;
    if (!found.some((index) => index.name === chosen)) chosen = found.length ? found[0].name : null;
    byId("search-form").hidden = byId("search-out").hidden = !found.length;
    if (found.length) {
      show(place, ...chooser(found));
    } else {
      byId("upload").open = true;
      show(place, empty("There is no index yet. Upload a JSON-lines or CSV file, and it becomes one."));
    }
  } catch (error) {
    show(place, problem(error));
  }
}

function chooser(found) {
  const note = el("p", { class: "fine", "aria-live": "polite" });
  const describe = () => {
    const { documents: of, settings, index_kind: kind } = found.find((index) => index.name === chosen);
    const rest = [of.pending ? `${of.pending} waiting` : "", of.failed ? `${of.failed} failed` : ""].filter(Boolean);
    note.textContent = [`${of.ready} documents ready`, ...rest, `mode ${settings.document_mode}`, kind].join(" · ");
  };
  const select = el("select", {}, ...found.map(({ name }) => el("option", { value: name }, name)));
  select.value = chosen;
  select.addEventListener("change", () => {
    chosen = select.value;
    describe();
  });
  describe();
  return [el("label", {}, "Index ", select), note];
}

class Ranking {
  // `out` is the one sentence left out: {hit: null or an id, at}; the served score without it is exact.
  constructor(answer) {
    this.hits = answer.hits.map((hit, at) => ({ ...hit, served: at + 1 }));
    this.out = null;
    this.unfolded = new Set(); // what was opened stays open when the ranking moves
    const explained = answer.hits.find((hit) => hit.explanation);
    this.query = explained ? explained.explanation.query : [];
    this.list = el("div");
    this.chips = el("ul", { class: "chips" });
    const { embed, search } = answer.timing_ms;
    this.note = el("p", { class: "fine", "aria-live": "polite" });
    this.nodes = [
      el("p", { class: "fine" }, `${answer.hits.length} hits; embedding ${embed.toFixed(0)} ms, searching ${search.toFixed(1)} ms; ${answer.exact ? "exact" : "approximate"}`),
      this.query.length ? el("div", { class: "card" }, el("h3", {}, "The query as it was understood"), el("p", { class: "fine" }, "Take a sentence out, here or in a hit, and watch the ranking."), this.chips, this.note) : null,
      this.list,
    ];
    this.draw();
  }

  toggle(hit, at) {
    const same = this.out && this.out.hit === hit && this.out.at === at;
    this.out = same ? null : { hit, at };
    this.draw();
    const again = this.nodes.flatMap((node) => (node ? [...node.querySelectorAll("[data-key]")] : []));
    const back = again.find((node) => node.dataset.key === keyOf(hit, at));
    if (back) back.focus({ preventScroll: true });
  }

  score(hit) {
    if (!this.out || !hit.explanation) return hit.score;
    if (this.out.hit === null) return hit.explanation.query[this.out.at].without;
    return this.out.hit === hit.id ? hit.explanation.document[this.out.at].without : hit.score;
  }

  draw() {
    show(this.chips, ...this.query.map((piece, at) => el("li", {}, el(
      "button",
      { type: "button", "aria-pressed": String(this.isOut(null, at)), "data-key": keyOf(null, at), onclick: () => this.toggle(null, at) },
      el("span", { class: "fine" }, `${NAMES[piece.source]} `),
      piece.text.trim() || "turn markers",
    ))));
    // Only dense scores can be taken apart: other rankings keep their order.
    const dense = this.hits.every((hit) => hit.explanation && hit.dense === null);
    const ranked = this.hits.map((hit) => ({ hit, score: this.out && dense ? this.score(hit) : hit.score }));
    if (this.out && dense) ranked.sort((a, b) => (b.score ?? -2) - (a.score ?? -2));
    this.note.textContent = !this.out ? "" : dense ? "Ranked without the sentence that is struck out, among these hits." : "The ranking stays: it is not made of dense scores alone.";
    show(this.list, ...ranked.map(({ hit, score }, at) => this.card(hit, score, at + 1)));
  }

  isOut(hit, at) {
    return Boolean(this.out) && this.out.hit === hit && this.out.at === at;
  }

  card(hit, score, rank) {
    const { explanation } = hit;
    const parts = explanation ? this.parts(hit) : null;
    return el(
      "article",
      { class: "card hit", "aria-label": `hit ${rank}: ${hit.id}` },
      el(
        "header",
        {},
        el("span", { class: "rank" }, `${rank}.`),
        el("code", {}, hit.id),
        el("span", { class: "figure" }, number(score, 4)),
        rank !== hit.served ? el("span", { class: "fine" }, `was ${hit.served}.`) : null,
        this.out && score !== hit.score ? el("span", { class: "fine" }, `${number(hit.score, 4)} with all`) : null,
      ),
      parts && parts.input.length ? el("p", { class: "words tinted" }, ...parts.input) : el("p", { class: "words" }, hit.text),
      Object.keys(hit.metadata).length ? el("p", { class: "fine" }, Object.entries(hit.metadata).map(([k, v]) => `${k}: ${typeof v === "string" ? v : JSON.stringify(v)}`).join(" · ")) : null,
      hit.rationale
        ? this.fold(hit, "Rationale", el("p", { class: "words tinted" }, ...(parts && parts.rationale.length ? parts.rationale : [hit.rationale.text])))
        : null,
      explanation ? this.fold(hit, "Pairs that add most", pairs(explanation)) : null,
      hit.not_explained ? el("p", { class: "fine" }, `Not explained: ${hit.not_explained}.`) : null,
    );
  }

  fold(hit, name, content) {
    const key = keyOf(hit.id, name);
    const remember = (event) => (event.target.open ? this.unfolded.add(key) : this.unfolded.delete(key));
    return el("details", { open: this.unfolded.has(key), ontoggle: remember }, el("summary", {}, name), content);
  }

  parts(hit) {
    const pieces = hit.explanation.document;
    const strengths = scaled(pieces.map((piece) => piece.contribution));
    const found = { input: [], template: [], rationale: [] };
    pieces.forEach((piece, at) => {
      const out = this.isOut(hit.id, at);
      const toggle = () => this.toggle(hit.id, at);
      const words = el(out ? "s" : "span", {}, piece.text);
      const node = el(
        "span",
        { class: "part", role: "button", tabindex: "0", "aria-pressed": String(out), "data-key": keyOf(hit.id, at), onclick: toggle },
        words,
        el("span", { class: "figure" }, number(piece.contribution, 3)),
      );
      node.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        toggle();
      });
      found[piece.source].push(tint(node, strengths[at]));
    });
    return found;
  }
}

function keyOf(hit, at) {
  return JSON.stringify([hit, at]);
}

function pairs({ query, document, pairs: found }) {
  const words = (piece) => `“${piece.text.trim() || "turn markers"}”`;
  return el("ol", { class: "pairs" }, ...found.slice(0, 5).map((pair) => el(
    "li",
    {},
    words(query[pair.query]),
    el("span", { class: "arrow" }, " × "),
    words(document[pair.document]),
    el("span", { class: "figure" }, number(pair.contribution, 4)),
  )));
}
