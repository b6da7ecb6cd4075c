// Colours of points, from the style sheet: so they fit light and dark, and keep 3 to 1 from the ground.

import { el } from "./dom.js";

const NAMED = 12;
const STEPS = 6;

// {of: colour number of each point or null, list: [colour], other, steps: words of a scale}
export function coloursFor(values) {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(name).trim();
  const grey = read("--edge");
  if (!values) return { of: null, list: [read("--accent")], other: null, steps: [] };
  if (values.kind === "category") {
    const list = Array.from({ length: NAMED }, (_, at) => read(`--c${at}`));
    const few = Math.min(NAMED, values.names.length);
    const of = values.values.map((value) => (value === null ? NAMED + 1 : value < few ? value : NAMED));
    return { of, list: [...list, grey, grey], other: NAMED, steps: [] };
  }
  const list = Array.from({ length: STEPS }, (_, at) => read(`--n${at}`));
  const known = values.values.filter((value) => value !== null).sort((a, b) => a - b);
  const edges = Array.from({ length: STEPS + 1 }, (_, at) => known[Math.min(known.length - 1, Math.floor((at * known.length) / STEPS))]);
  const of = values.values.map((value) => {
    if (value === null) return STEPS;
    let at = 0;
    while (at < STEPS - 1 && value >= edges[at + 1]) at += 1;
    return at;
  });
  const words = (value) => value.toLocaleString("en", { maximumSignificantDigits: 4 });
  return { of, list: [...list, grey], other: STEPS, steps: list.map((_, at) => (at < STEPS - 1 ? `from ${words(edges[at])}` : `to ${words(edges[STEPS])}`)) };
}

export function swatch(colours, at) {
  const node = el("span", { class: "swatch", "aria-hidden": "true" });
  node.style.setProperty("--swatch", colours.list[at]);
  return node;
}
