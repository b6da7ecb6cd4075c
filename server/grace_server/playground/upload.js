// Upload: a file is read here, its columns are chosen, its documents are sent in batches and embedded as jobs.

import { json, stream } from "./api.js";
import { busy, byId, count, el, problem, runner, show } from "./dom.js";
import { documentsOf, readRows, short } from "./rows.js";

const BATCH_DOCUMENTS = 200;
const BATCH_CHARACTERS = 1_000_000;
const MOST_BYTES = 64 * 2 ** 20;
const TEXT_COLUMNS = ["text", "content", "body", "message", "title", "question", "sentence"];
const ID_COLUMNS = ["id", "_id", "doc_id", "key"];
const BAD_SHOWN = 20;

// `finished(name)` is called when the index has something new.
export function start(finished) {
  const form = byId("upload-form");
  const out = byId("upload-out");
  const stop = byId("upload-stop");
  const { index, file, mode } = form.elements;
  const run = runner(byId("upload-go"), out);
  let read = null; // the file, as rows
  let leave = null;
  stop.addEventListener("click", () => leave && leave.abort());
  file.addEventListener("change", async () => {
    read = null;
    show(out);
    byId("upload-columns").replaceChildren();
    byId("upload-go").disabled = true;
    if (!file.files.length) return;
    try {
      show(out, busy("Reading the file"));
      read = await open(file.files[0]);
      show(out);
      show(byId("upload-columns"), ...chooser(read));
      if (!index.value) index.value = nameFor(file.files[0].name);
      byId("upload-go").disabled = false;
    } catch (error) {
      show(out, problem(error));
    }
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!read) return;
    run(async (signal) => {
      const mine = (leave = new AbortController());
      const name = index.value.trim();
      stop.hidden = false;
      try {
        const { documents, bad } = documentsOf(read, chosenColumns(form), file.files[0].name);
        if (!documents.length) throw new Error("No row has a text in the columns chosen.");
        await send(name, documents, bad, mode.value, out, AbortSignal.any([signal, mine.signal]), finished);
      } catch (error) {
        if (error.name !== "AbortError") throw error;
        show(out, el("p", { role: "status" }, "Stopped. What was accepted stays, and is embedded."));
      } finally {
        if (leave === mine) stop.hidden = true;
        await finished(name);
      }
    });
  });
}

async function open(file) {
  if (file.size > MOST_BYTES) throw new Error("Over 64 MB a browser is the wrong tool: use grace-index build.");
  const read = readRows(await file.text(), file.name);
  if (!read.rows.length) {
    const [first] = read.bad;
    throw new Error(first ? `No row can be read. Line ${first.line}: ${first.reason}.` : "The file is empty.");
  }
  return read;
}

const nameFor = (file) => file.replace(/\.[a-z]+$/i, "").replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[^A-Za-z0-9]+/, "").slice(0, 64);

// Which columns are the text and which the id, with the first rows to look at.
function chooser({ columns, rows, bad }) {
  const words = (name) => rows.reduce((sum, { value }) => sum + (typeof value[name] === "string" ? value[name].length : 0), 0);
  const known = columns.find((name) => TEXT_COLUMNS.includes(name.toLowerCase()) && words(name));
  const text = known ?? columns.reduce((best, name) => (words(name) > words(best) ? name : best), columns[0]);
  const id = columns.find((name) => ID_COLUMNS.includes(name.toLowerCase()));
  const boxes = columns.map((name) => el("label", { class: "check" }, el("input", { type: "checkbox", name: "text", value: name, checked: name === text }), name));
  const select = el("select", { name: "id" }, el("option", { value: "" }, "file name and line"), ...columns.map((name) => el("option", { value: name, selected: name === id }, name)));
  const head = el("tr", {}, ...columns.map((name) => el("th", { scope: "col" }, name)));
  const cell = (value) => el("td", {}, value === undefined || value === null ? "" : short(typeof value === "string" ? value : JSON.stringify(value)));
  return [
    el("fieldset", {}, el("legend", {}, "Text: one column, or several one after the other"), ...boxes),
    el("label", {}, "Id ", select),
    el("p", { class: "fine" }, `${count(rows.length, "row")}; what is neither text nor id is kept as metadata.`),
    el(
      "div",
      { class: "wide", tabindex: "0", role: "region", "aria-label": "First rows of the file" },
      el("table", { class: "preview" }, el("thead", {}, head), el("tbody", {}, ...rows.slice(0, 3).map(({ value }) => el("tr", {}, ...columns.map((name) => cell(value[name])))))),
    ),
    badRows(bad),
  ];
}

function badRows(bad) {
  if (!bad.length) return null;
  const items = bad.slice(0, BAD_SHOWN).map(({ line, reason }) => el("li", {}, `Line ${line}: ${reason}.`));
  if (bad.length > BAD_SHOWN) items.push(el("li", {}, `and ${bad.length - BAD_SHOWN} more`));
  return el("details", { class: "bad", open: bad.length <= 3 }, el("summary", {}, `${count(bad.length, "row")} left out`), el("ul", {}, ...items));
}

function chosenColumns(form) {
  const text = [...form.querySelectorAll("[name=text]:checked")].map((box) => box.value);
  if (!text.length) throw new Error("Choose at least one column as the text.");
  return { text, id: form.elements.id.value };
}

async function send(name, documents, bad, mode, out, signal, finished) {
  const place = `indexes/${encodeURIComponent(name)}`;
  show(out, busy("Asking for the index"));
  const there = (await json("indexes", { signal })).data.some((index) => index.name === name);
  if (!there) await json(place, { method: "PUT", body: { settings: { document_mode: mode } }, signal });

  const bar = el("progress", { max: documents.length * 2, value: 0, "aria-label": "progress" });
  const words = el("p", { class: "fine", role: "status" });
  show(out, bar, words);
  out.scrollIntoView({ block: "nearest" });
  const jobs = [];
  let sent = 0;
  for (const batch of batches(documents)) {
    const job = await sendBatch(place, batch, bad, signal);
    if (job) jobs.push(job);
    bar.value = sent += batch.length;
    words.textContent = `${sent} of ${documents.length} sent`;
  }
  await finished(name);
  let before = 0;
  for (const { id } of jobs) {
    let now = null;
    await stream(`jobs/${encodeURIComponent(id)}/events`, { signal }, (_, job) => {
      now = job;
      const done = before + job.total - job.left;
      bar.value = sent + done;
      const rate = job.rate ? `, ${job.rate.toFixed(1)} a second` : "";
      words.textContent = `${done} of ${documents.length} embedded${rate}${leftAt(job.rate, documents.length - done)}`;
    });
    before += now.total;
    for (const { id: document, reason } of now.failures) {
      bad.push({ line: documents.find((one) => one.document.id === document)?.line ?? "?", reason: `it could not be embedded: ${reason}` });
    }
  }
  bar.value = bar.max;
  const described = await json(place, { signal });
  words.textContent = `Done: “${name}” holds ${count(described.documents.ready, "document")}.`;
  if (bad.length) out.append(badRows(bad));
}

const leftAt = (rate, left) => (rate && left / rate > 5 ? `, about ${left / rate > 90 ? `${Math.round(left / rate / 60)} min` : `${Math.round(left / rate)} s`} to go` : "");

// A batch is taken whole or not at all: a document that is refused is named, left out, and the rest is sent again.
async function sendBatch(place, batch, bad, signal) {
  const rest = [...batch];
  while (rest.length) {
    try {
      return (await json(`${place}/documents`, { method: "POST", body: { documents: rest.map(({ document }) => document) }, signal })).job;
    } catch (error) {
      const at = /^documents[[.](\d+)/.exec(error.param ?? "")?.[1];
      if (at === undefined || !rest[at]) throw error;
      const [{ line }] = rest.splice(Number(at), 1);
      bad.push({ line, reason: error.message });
    }
  }
  return null;
}

function* batches(documents) {
  let batch = [];
  let size = 0;
  for (const one of documents) {
    const length = JSON.stringify(one.document).length;
    if (batch.length && (batch.length === BATCH_DOCUMENTS || size + length > BATCH_CHARACTERS)) {
      yield batch;
      batch = [];
      size = 0;
    }
    batch.push(one);
    size += length;
  }
  if (batch.length) yield batch;
}
