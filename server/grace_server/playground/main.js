// Which view is shown, and what the service is. The address's fragment names the view: links and "back" work.

import { json } from "./api.js";
import * as compare from "./compare.js";
import { byId } from "./dom.js";
import * as embed from "./embed.js";
import * as map from "./map.js";
import * as search from "./search.js";

const VIEWS = { embed, compare, search, map };

function open() {
  const name = location.hash.slice(1) in VIEWS ? location.hash.slice(1) : "embed";
  for (const view of Object.keys(VIEWS)) byId(`view-${view}`).hidden = view !== name;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  VIEWS[name].opened();
}

// Ctrl + Enter in a text sends its form.
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target.form) event.target.form.requestSubmit();
});
byId("key-cancel").addEventListener("click", () => byId("key-dialog").close());
for (const view of Object.values(VIEWS)) view.start();
window.addEventListener("hashchange", open);
open();

json("info").then(
  (info) => {
    byId("about").textContent = `${info.model} · ${info.engine} · ${info.limits.dimensions} dimensions`;
    for (const field of document.querySelectorAll('input[name="budget"]')) {
      field.max = info.limits.max_rationale_tokens;
      field.placeholder = `default (${info.limits.default_rationale_tokens})`;
    }
    for (const field of document.querySelectorAll('input[name="dimensions"]')) field.max = info.limits.dimensions;
  },
  (error) => {
    byId("about").textContent = error.message;
  },
);
