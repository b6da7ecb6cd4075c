// Map: the documents of an index on a plane, what they are, and where a query lies among them.

import { json } from "./api.js";
import { busy, byId, count, el, empty, number, percent, problem, runner, show } from "./dom.js";
import * as indexes from "./indexes.js";
import { coloursFor, swatch } from "./palette.js";
import { Plot } from "./plot.js";

const HITS = 10;
const PAUSE_MS = 80; // before the document under the pointer is fetched
const NAMES_SHOWN = 12;

let plot = null;
let shown = null; // the map as the service gave it
let seen = null; // "name seq" of what is shown

export function start() {
  const form = byId("map-form");
  const field = byId("map-colour");
  const note = byId("map-note");
  const run = runner(byId("map-go"), byId("map-out"));
  plot = new Plot(byId("map-canvas"), byId("map-over"), looked());
  byId("map-in").addEventListener("click", () => plot.zoom(1.5));
  byId("map-away").addEventListener("click", () => plot.zoom(1 / 1.5));
  byId("map-all").addEventListener("click", () => plot.reset());
  field.addEventListener("change", () => colour(field.value).catch((error) => show(note, problem(error))));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    run((signal) => ask(byId("map-query").value.trim(), signal));
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => shown && colour(field.value));
}

export async function opened() {
  await indexes.refresh(byId("map-indexes"), (index) => {
    byId("map-form").hidden = byId("map-all-of-it").hidden = index === null;
    const now = index && `${index.name} ${index.seq}`;
    if (index && now !== seen) draw(index, now);
  });
}

async function draw(index, now) {
  const note = byId("map-note");
  const same = seen !== null && seen.split(" ")[0] === index.name;
  seen = now;
  show(note, busy("Drawing the map"));
  try {
    const found = await json(`indexes/${encodeURIComponent(index.name)}/map`);
    if (seen !== now) return; // another index was chosen meanwhile
    shown = found;
    byId("map-frame").hidden = !found.ids.length;
    if (!found.ids.length) return show(note, empty(index.documents.pending ? "Its documents are still being embedded: the map follows." : "This index holds no document with a vector."));
    const [across, up] = found.explained;
    const part = found.documents > found.ids.length ? `${count(found.ids.length, "document")} of ${found.documents.toLocaleString("en")}, evenly chosen` : count(found.ids.length, "document");
    show(note, `${part}. Across and up are the two directions of largest variance: ${percent(across)} and ${percent(up)} of all of it. What lies together here need not be alike; a query and its nearest documents show what is.`);
    plot.show(found.x, found.y, !same);
    const fields = found.fields.filter(({ kind, distinct }) => kind === "number" || distinct <= Math.max(NAMES_SHOWN, found.ids.length / 2));
    const before = byId("map-colour").value;
    byId("map-colour").replaceChildren(el("option", { value: "" }, "nothing"), ...fields.map(({ name }) => el("option", { value: name }, name)));
    const first = fields.find(({ kind, distinct }) => kind === "category" && distinct > 1) ?? fields[0];
    byId("map-colour").value = fields.some(({ name }) => name === before) && before ? before : first ? first.name : "";
    show(byId("map-out"));
    await colour(byId("map-colour").value);
  } catch (error) {
    seen = null;
    show(note, problem(error));
  }
}

async function colour(field) {
  const mine = shown;
  const legend = byId("map-legend");
  if (!field) {
    plot.colour(null, coloursFor(null));
    return show(legend);
  }
  const found = await json(`indexes/${encodeURIComponent(mine.index)}/map/values?${new URLSearchParams({ field, seq: mine.seq })}`);
  if (mine !== shown) return;
  const colours = coloursFor(found);
  plot.colour(colours.of, colours);
  show(legend, ...(found.kind === "number" ? scale(found, colours) : categories(found, colours)));
}

// Each name is a button that brings its documents out: colours alone need not tell twelve apart.
function categories(found, colours) {
  const counts = new Map();
  for (const at of colours.of) counts.set(at, (counts.get(at) ?? 0) + 1);
  let picked = null;
  const buttons = [...counts.keys()].sort((a, b) => a - b).map((at) => {
    const name = at < Math.min(NAMES_SHOWN, found.names.length) ? found.names[at] : at === colours.other ? "others" : "without";
    return el("button", { type: "button", class: "name", "aria-pressed": "false", onclick: (event) => press(event.currentTarget, at) }, swatch(colours, at), name, el("span", { class: "figure" }, counts.get(at)));
  });
  const press = (button, at) => {
    picked = picked === at ? null : at;
    for (const one of buttons) one.setAttribute("aria-pressed", String(one === button && picked !== null));
    plot.only(picked);
  };
  return buttons;
}

function scale(found, colours) {
  const steps = colours.steps.map((step, at) => el("span", { class: "step" }, swatch(colours, at), step));
  return [el("p", { class: "fine scale" }, ...steps)];
}

// What the plot tells: the document under the pointer, or the one that the arrow keys went to.
function looked() {
  let pause = null;
  let leave = null;
  return (at) => {
    clearTimeout(pause);
    if (leave) leave.abort();
    if (at === null) return;
    leave = new AbortController();
    const { signal } = leave;
    pause = setTimeout(async () => {
      const place = byId("map-document");
      try {
        const document = await json(`indexes/${encodeURIComponent(shown.index)}/documents/${encodeURIComponent(shown.ids[at])}`, { signal });
        show(place, ...card(document));
      } catch (error) {
        if (error.name !== "AbortError") show(place, problem(error));
      }
    }, PAUSE_MS);
  };
}

function card({ id, text, rationale, metadata }) {
  const facts = Object.entries(metadata).map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, typeof value === "string" ? value : JSON.stringify(value))));
  return [
    el("h3", {}, el("code", {}, id)),
    el("p", { class: "words" }, text),
    rationale ? el("div", { class: "why" }, el("h4", {}, "Rationale"), el("p", { class: "words" }, rationale.text)) : null,
    facts.length ? el("dl", { class: "facts fine" }, ...facts) : null,
  ];
}

async function ask(query, signal) {
  const out = byId("map-out");
  const mine = shown;
  if (!query || !mine || !mine.ids.length) return;
  show(out, busy("Placing the query"));
  const body = { index: mine.index, query, k: HITS };
  const [place, answer] = await Promise.all([
    json(`indexes/${encodeURIComponent(mine.index)}/map/query`, { method: "POST", body: { query, seq: mine.seq }, signal }),
    json("search", { method: "POST", body, signal }),
  ]);
  const at = new Map(mine.ids.map((id, i) => [id, i]));
  const hits = answer.hits.filter(({ id }) => at.has(id));
  plot.ask([place.x, place.y], hits.map(({ id }) => at.get(id)));
  const items = hits.map(({ id, score, text }) => el("li", {}, el(
    "button",
    { type: "button", class: "pair", onclick: () => plot.look(at.get(id)) },
    el("span", { class: "clip" }, text || id),
    el("span", { class: "figure" }, number(score, 3)),
  )));
  show(
    out,
    el("div", { class: "actions tight" }, el("h3", {}, "Nearest to the query, among all dimensions"), el("button", { type: "button", onclick: () => { plot.ask(null, []); show(out); } }, "Clear")),
    el("ol", { class: "pairs" }, ...items),
  );
}
