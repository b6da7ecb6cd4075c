// Search: the index, the question, and the answer; asked on Enter or as one types.

import { json } from "./api.js";
import { busy, byId, empty, runner, show } from "./dom.js";
import * as indexes from "./indexes.js";
import { Ranking } from "./ranking.js";
import * as upload from "./upload.js";

const PAUSE_MS = 350; // in typing, before a search is sent
const LEAST_CHARACTERS = 2;

export function start() {
  const form = byId("search-form");
  const field = byId("search-query");
  const out = byId("search-out");
  const run = runner(byId("search-go"), out);
  let pause = null;
  upload.start(async (name) => {
    indexes.choose(name);
    await opened();
  });

  const search = (typed) => {
    clearTimeout(pause);
    const index = indexes.current();
    const query = field.value.trim();
    if (index === null || !query) return;
    run(async (signal) => {
      // What was found before stays to be seen until the new answer is there: typing does not make the page jump.
      if (typed && out.querySelector(".hit")) out.classList.add("stale");
      else show(out, busy("Searching"));
      const body = { index, query, method: form.elements.method.value, mode: form.elements.mode.value || null, k: Number(form.elements.k.value) || 10, explain: true, grams: true };
      try {
        const answer = await json("search", { method: "POST", body, signal });
        if (answer.hits.length) show(out, ...new Ranking(answer, indexes.metricOf()).nodes);
        else show(out, empty(`Nothing found in “${index}”. Documents can be found by meaning once they are embedded.`));
      } finally {
        if (!signal.aborted) out.classList.remove("stale");
      }
    });
  };

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    search(false);
  });
  field.addEventListener("input", (event) => {
    clearTimeout(pause);
    if (!form.elements.live.checked || event.isComposing || field.value.trim().length < LEAST_CHARACTERS) return;
    pause = setTimeout(() => search(true), PAUSE_MS);
  });
  for (const name of ["method", "mode", "k"]) form.elements[name].addEventListener("change", () => search(true));
  byId("search-indexes").addEventListener("change", () => search(false));
  show(out, empty("Ask something. Each hit shows which of its sentences the score comes from."));
}

export async function opened() {
  await indexes.refresh(byId("search-indexes"), (index) => {
    byId("search-form").hidden = byId("search-out").hidden = index === null;
    if (index === null) byId("upload").open = true;
  });
}
