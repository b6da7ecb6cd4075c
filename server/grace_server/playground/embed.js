// Embed: the rationale as it is written, then the vector as a picture and the share of each sentence.

import { stream } from "./api.js";
import { bySource, scaled } from "./attribution.js";
import { busy, byId, el, empty, percent, runner, shareBar, show, tint } from "./dom.js";
import { picture } from "./picture.js";

export function opened() {}

export function start() {
  const form = byId("embed-form");
  const out = byId("embed-out");
  const stop = byId("embed-stop");
  const run = runner(byId("embed-go"), out);
  let leave = null;
  show(out, empty("Type a text. Its rationale appears here as the model writes it, then its vector."));
  stop.addEventListener("click", () => leave && leave.abort());
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    run(async (signal) => {
      const mine = (leave = new AbortController());
      stop.hidden = false;
      try {
        await embed(form, out, AbortSignal.any([signal, mine.signal]));
      } catch (error) {
        if (error.name === "AbortError" && mine.signal.aborted) show(out, empty("Stopped."));
        throw error;
      } finally {
        if (leave === mine) stop.hidden = true;
      }
    });
  });
}

async function embed(form, out, signal) {
  const body = {
    input: byId("embed-text").value,
    role: form.elements.role.value,
    mode: form.elements.mode.value,
    pooling: form.elements.pooling.value || null,
    max_rationale_tokens: numberOf(form.elements.budget),
    dimensions: numberOf(form.elements.dimensions),
    temperature: numberOf(form.elements.temperature),
    explain: true,
    stream: true,
  };
  const words = el("p", { class: "words" });
  const state = el("div", {}, busy("Reading the text"));
  const result = el("div");
  const card = el("div", { class: "card", hidden: body.mode === "direct" }, el("h3", {}, "Rationale"), words);
  show(out, state, card, result);
  await stream("embed", { method: "POST", body, signal }, (event, data) => {
    if (event === "rationale") {
      words.append(data.delta);
      if (words.textContent.length === data.delta.length) show(state, busy("Writing the rationale"));
    } else if (event === "embedding") {
      show(result, ...drawn(data, words));
    } else if (event === "done") {
      show(state, facts({ Tokens: `${data.usage.prompt_tokens} read, ${data.usage.completion_tokens} written` }));
    }
  });
}

const numberOf = (field) => (field.value === "" ? null : Number(field.value));

function drawn(item, words) {
  const canvas = el("canvas", { role: "img" });
  queueMicrotask(() => picture(canvas, item.embedding));
  if (item.rationale) words.textContent = item.rationale.text;
  const notes = {
    Dimensions: item.embedding.length,
    "Tokens of the text": item.input_tokens + (item.truncated ? " (cut to the limit)" : ""),
  };
  if (item.rationale) notes["Rationale"] = `${item.rationale.tokens} tokens, ended by ${item.rationale.finish_reason}`;
  if (item.cached) notes["From the cache"] = "yes";
  return [
    el(
      "div",
      { class: "card" },
      el("h3", {}, "Vector"),
      canvas,
      el("p", { class: "fine" }, el("span", { class: "key plus", "aria-hidden": "true" }), "above 0 ", el("span", { class: "key minus", "aria-hidden": "true" }), "below 0; the stronger, the larger. A cell per dimension."),
      facts(notes),
    ),
    el("div", { class: "card" }, el("h3", {}, "What it is made of"), shareBar(bySource(item.segments, (segment) => segment.share)), ...shares(item.segments)),
  ];
}

function shares(segments) {
  const strengths = scaled(segments.map((segment) => segment.share));
  const names = { input: "Text", template: "Template between them", rationale: "Rationale" };
  const found = [];
  for (const [source, name] of Object.entries(names)) {
    const of = segments.map((segment, i) => ({ ...segment, strength: strengths[i] })).filter((s) => s.source === source);
    if (!of.length) continue;
    const parts = of.map((segment) =>
      tint(
        el("span", { class: "part" }, segment.text || "turn markers", el("span", { class: "figure" }, percent(segment.share))),
        segment.strength,
      ),
    );
    found.push(el("h4", {}, name), el("p", { class: "tinted words" }, ...parts));
  }
  return found;
}

function facts(values) {
  return el(
    "dl",
    { class: "facts" },
    ...Object.entries(values).map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))),
  );
}
