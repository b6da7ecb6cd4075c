// One hit: its sentences, tinted by what they add to the score, and the pairs that add most.

import { bySource, scaled } from "./attribution.js";
import { el, number, shareBar, tint } from "./dom.js";

const PAIRS_SHOWN = 5;
const NAMES = { input: "text", template: "template", rationale: "rationale" };
const wordsOf = (piece) => piece.text.trim() || "turn markers";

// A sentence as a box to tick: ticked counts. `strength` -1..1 tints it, `figure` stands behind it.
export function pieceBox(piece, { key, kept, picked, fixed, toggle, strength, figure }) {
  const node = el(
    "span",
    {
      class: `part${picked ? " picked" : ""}${kept ? "" : " out"} ${piece.source}`,
      role: "checkbox",
      tabindex: "0",
      "aria-checked": String(kept),
      "aria-disabled": fixed ? "true" : null,
      "data-key": key,
      title: fixed ? null : kept ? "take this sentence out" : "put this sentence back",
      onclick: () => fixed || toggle(),
    },
    el(kept ? "span" : "s", {}, wordsOf(piece)),
    figure ? el("span", { class: "figure" }, figure) : null,
  );
  node.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    if (!fixed) toggle();
  });
  return strength === undefined ? node : tint(node, kept ? strength : 0);
}

// `view` is the ranking the hit is part of.
export function hitCard(view, hit, score, rank) {
  const { explanation } = hit;
  const parts = explanation ? boxes(view, hit) : { input: [], template: [], rationale: [] };
  return el(
    "article",
    { class: "card hit", "aria-label": `hit ${rank}: ${hit.id}`, "data-hit": hit.id },
    el(
      "header",
      {},
      el("span", { class: "rank" }, `${rank}.`),
      el("code", {}, hit.id),
      el("span", { class: "figure big" }, number(score, 4)),
      rank === hit.served ? null : el("span", { class: `moved ${rank < hit.served ? "up" : "down"}` }, `${rank < hit.served ? "▲" : "▼"} was ${hit.served}.`),
      score === hit.score ? null : el("span", { class: "fine" }, `${number(hit.score, 4)} with all`),
      hit.dense ? el("span", { class: "fine" }, `meaning: ${place(hit.dense)}`) : null,
      hit.lexical ? el("span", { class: "fine" }, `words: ${place(hit.lexical)}`) : null,
      metadata(hit.metadata),
    ),
    parts.input.length ? el("p", { class: "words tinted" }, ...parts.input) : el("p", { class: "words" }, hit.text),
    hit.rationale
      ? el("div", { class: "why" }, el("h4", {}, "Rationale"), el("p", { class: "words tinted" }, ...(parts.rationale.length ? parts.rationale : [hit.rationale.text])))
      : null,
    explanation ? shareBar(bySource(explanation.document, (piece) => piece.contribution), "With all, the score comes from") : null,
    explanation ? fold(view, hit, "pairs", `The ${Math.min(PAIRS_SHOWN, explanation.pairs.length)} pairs that add most`, pairs(view, hit, parts.template)) : null,
    hit.not_explained ? el("p", { class: "fine" }, `Not explained: ${hit.not_explained}.`) : null,
  );
}

const place = ({ rank, score }) => `${rank}. with ${number(score, 3)}`;

function metadata(values) {
  const entries = Object.entries(values);
  if (!entries.length) return null;
  return el("dl", { class: "facts fine" }, ...entries.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, typeof value === "string" ? value : JSON.stringify(value)))));
}

function boxes(view, hit) {
  const pieces = hit.explanation.document;
  const strengths = scaled(pieces.map((piece) => piece.contribution));
  const pair = view.picked && view.picked.hit === hit.id ? view.picked.pair : null;
  const found = { input: [], template: [], rationale: [] };
  pieces.forEach((piece, at) => {
    const key = JSON.stringify([hit.id, at]);
    const box = pieceBox(piece, {
      key,
      kept: hit.keep[at],
      picked: pair !== null && pair.document === at,
      fixed: !view.movable,
      toggle: () => view.toggle(hit.keep, at, key),
      strength: strengths[at],
      figure: number(piece.contribution, 3),
    });
    found[piece.source].push(box);
  });
  return found;
}

function fold(view, hit, name, title, content) {
  const key = JSON.stringify([hit.id, name]);
  return el("details", { open: view.unfolded.has(key), "data-fold": key }, el("summary", {}, title), content);
}

function pairs(view, hit, template) {
  const { query, document, pairs: found } = hit.explanation;
  const side = (title, piece) => el("div", {}, el("h4", {}, `${title} · ${NAMES[piece.source]}`), el("p", { class: "words" }, wordsOf(piece)));
  const rows = found.slice(0, PAIRS_SHOWN).map((pair, at) => {
    const key = JSON.stringify([hit.id, "pair", at]);
    const open = Boolean(view.picked) && view.picked.hit === hit.id && view.picked.pair === pair;
    return el(
      "li",
      {},
      el(
        "button",
        { type: "button", class: "pair", "aria-expanded": String(open), "data-key": key, onclick: () => view.pick(hit.id, pair, key) },
        el("span", { class: "clip" }, wordsOf(query[pair.query])),
        el("span", { class: "arrow" }, "×"),
        el("span", { class: "clip" }, wordsOf(document[pair.document])),
        el("span", { class: "figure" }, number(pair.contribution, 4)),
      ),
      open ? el("div", { class: "two sides" }, side("Query", query[pair.query]), side("Document", document[pair.document])) : null,
    );
  });
  const change = hit.explanation.largest_change;
  const moved = change && (change.side === "query" ? query : document)[change.segment];
  const furthest = moved ? el("p", { class: "fine" }, `Of all single sentences, taking out “${wordsOf(moved)}” of the ${change.side} would move this hit furthest: to rank ${change.rank}.`) : null;
  const markers = template.length ? el("p", { class: "words tinted" }, "Between text and rationale: ", ...template) : null;
  return el("div", {}, el("ol", { class: "pairs" }, ...rows), furthest, markers);
}
