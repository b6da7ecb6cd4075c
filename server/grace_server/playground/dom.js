// Elements out of data. Words of texts and models become text nodes, always: nothing here parses markup.

// el("p", { class: "note", onclick: f, disabled: true }, "words", node, ...)
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.filter((child) => child !== null && child !== undefined).map(asNode));
  return node;
}

function asNode(child) {
  return child instanceof Node ? child : document.createTextNode(String(child));
}

const SLOW_S = 5;

export const byId = (id) => document.getElementById(id);

export function show(place, ...children) {
  place.replaceChildren(...children.filter(Boolean).map(asNode));
}

// Figures with a real minus sign, and none before a zero.
export const number = (value, digits = 3) =>
  value === null || value === undefined ? "–" : value.toFixed(digits).replace(/^-(?=0\.?0*$)/, "").replace("-", "−");
export const count = (value, noun) => `${value.toLocaleString("en")} ${noun}${value === 1 ? "" : "s"}`;
export const percent = (value) => (value === null || value === undefined ? "–" : `${number(value * 100, 1)}\u00a0%`);

// What went wrong: the service's own words, and the id to look for in its log.
export function problem(error) {
  return el(
    "div",
    { class: "problem", role: "alert" },
    el("p", {}, error.message || "Something went wrong."),
    error.requestId ? el("p", { class: "fine" }, "request ", el("code", {}, error.requestId)) : null,
  );
}

export function empty(...words) {
  return el("p", { class: "empty" }, ...words);
}

// Work under way. What takes long says how long it has taken, and that this is no fault.
export function busy(words) {
  const since = performance.now();
  const time = el("span", { class: "figure", "aria-hidden": "true" });
  const slow = el("span", { class: "fine" });
  const node = el("p", { class: "busy", role: "status" }, el("span", { class: "spinner", "aria-hidden": "true" }), el("span", {}, words, "… ", time, slow));
  const tick = setInterval(() => {
    const seconds = Math.round((performance.now() - since) / 1000);
    if (!node.isConnected && seconds > 1) return clearInterval(tick);
    if (seconds >= 2) time.textContent = `${seconds} s `;
    if (seconds === SLOW_S) slow.textContent = "Still at work: other texts may be before yours, or the model is large.";
  }, 1000);
  return node;
}

// How much comes from where, as a bar and in words. `parts` is [[source, share or null], ...].
const SOURCES = { input: "text", template: "template", rationale: "rationale" };
export function shareBar(parts, label) {
  const known = parts.filter(([, share]) => share !== null);
  const all = known.reduce((sum, [, share]) => sum + Math.abs(share), 0) || 1;
  const bar = known.map(([source, share]) => {
    const piece = el("span", { class: `share ${source}` });
    piece.style.setProperty("width", `${(Math.abs(share) / all) * 100}%`);
    return piece;
  });
  const words = parts.map(([source, share]) => el("span", {}, el("span", { class: `key ${source}`, "aria-hidden": "true" }), `${SOURCES[source]} ${percent(share)}`));
  return el("div", { class: "shares" }, el("div", { class: "bar-of-shares", "aria-hidden": "true" }, ...bar), el("p", { class: "fine" }, label ? `${label}: ` : null, ...words));
}

// A tint between -1 and 1; the style sheet turns it into a colour under text that stays readable.
export function tint(node, value) {
  node.classList.add(value < 0 ? "against" : "for");
  node.style.setProperty("--tint", Math.min(1, Math.abs(value)).toFixed(3));
  return node;
}

// Runs `task(signal)`; a newer run for the same button stops the older one. Errors land in `place`.
export function runner(button, place) {
  let running = null;
  return async (task) => {
    if (running) running.abort();
    const mine = (running = new AbortController());
    button.setAttribute("aria-busy", "true");
    try {
      await task(mine.signal);
    } catch (error) {
      if (error.name !== "AbortError") show(place, problem(error));
    } finally {
      if (running === mine) {
        running = null;
        button.removeAttribute("aria-busy");
      }
    }
  };
}

// Asks for an API key; null if the dialog was closed. Several calls at once share one dialog.
let asking = null;
export function askForKey(wasWrong) {
  asking ??= new Promise((resolve) => {
    const dialog = byId("key-dialog");
    const field = byId("key-field");
    byId("key-wrong").hidden = !wasWrong;
    field.value = "";
    let answer = null;
    byId("key-form").onsubmit = (event) => {
      event.preventDefault();
      answer = field.value.trim() || null;
      dialog.close();
    };
    dialog.onclose = () => {
      asking = null;
      resolve(answer);
    };
    dialog.showModal();
    field.focus();
  });
  return asking;
}
