// The indexes of the service, and which of them is looked at: Search and Map share the choice.

import { json } from "./api.js";
import { count, el, empty, problem, show } from "./dom.js";

const POLL_MS = 2000;

let chosen = null; // its name; kept while the page lives
let metric = null; // how it compares
let timer = null;

export const current = () => chosen;
export const metricOf = () => metric;
export const choose = (name) => {
  chosen = name;
};

// Shows a chooser in `place`; `changed(index or null)` is told of the choice, and of every change of its documents.
export async function refresh(place, changed) {
  clearTimeout(timer);
  let found;
  try {
    found = (await json("indexes")).data;
  } catch (error) {
    if (error.name !== "AbortError") show(place, problem(error));
    return;
  }
  if (!found.some((index) => index.name === chosen)) chosen = found.length ? found[0].name : null;
  if (!found.length) {
    show(place, empty(el("strong", {}, "There is no index yet."), " Upload a JSON-lines or CSV file on the ", el("a", { href: "#search" }, "Search"), " view, and it becomes one."));
    changed(null);
    return;
  }
  const note = el("p", { class: "fine", role: "status" });
  const select = el("select", {}, ...found.map(({ name }) => el("option", { value: name }, name)));
  const tell = () => {
    const index = found.find(({ name }) => name === chosen);
    metric = index.settings.metric;
    note.textContent = described(index);
    changed(index);
    // Documents still wait for their vectors: look again soon.
    if (index.documents.pending) timer = setTimeout(() => place.isConnected && !place.closest("[hidden]") && again(), POLL_MS);
  };
  const again = async () => {
    try {
      found = (await json("indexes")).data;
    } catch {
      return; // the next look at the view says what is wrong
    }
    if (found.some(({ name }) => name === chosen)) tell();
  };
  select.value = chosen;
  select.addEventListener("change", () => {
    chosen = select.value;
    clearTimeout(timer);
    tell();
  });
  show(place, el("label", {}, "Index ", select), note);
  tell();
}

function described({ documents: of, settings, index_kind: kind }) {
  const rest = [of.pending ? `${of.pending} waiting to be embedded` : "", of.failed ? `${of.failed} failed` : ""].filter(Boolean);
  return [`${count(of.ready, "document")} ready`, ...rest, settings.document_mode === "reason" ? "with rationales" : "text alone", `${kind} index`].join(" · ");
}
