// Upload: a JSON-lines or CSV file becomes documents of an index, in batches, with progress.

import { json, stream } from "./api.js";
import { busy, byId, el, runner, show } from "./dom.js";

const BATCH_DOCUMENTS = 200;
const BATCH_CHARACTERS = 1_000_000;
const MOST_BYTES = 200 * 2 ** 20;
const TEXT_FIELDS = ["text", "content", "body"];

// `finished(name)` is called when the index has something new.
export function start(finished) {
  const form = byId("upload-form");
  const out = byId("upload-out");
  const stop = byId("upload-stop");
  const run = runner(byId("upload-go"), out);
  let leave = null;
  stop.addEventListener("click", () => leave && leave.abort());
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    run(async (signal) => {
      const mine = (leave = new AbortController());
      stop.hidden = false;
      const { index, file, mode } = form.elements;
      try {
        await upload(index.value.trim(), file.files[0], mode.value, out, AbortSignal.any([signal, mine.signal]), finished);
      } catch (error) {
        if (error.name !== "AbortError") throw error;
        show(out, el("p", { role: "status" }, "Stopped. What was accepted stays, and is embedded."));
      } finally {
        if (leave === mine) stop.hidden = true;
        await finished(index.value.trim());
      }
    });
  });
}

async function upload(name, file, mode, out, signal, finished) {
  show(out, busy("Reading the file"));
  if (file.size > MOST_BYTES) throw new Error("Over 200 MB a browser is the wrong tool: use grace-index build.");
  const documents = documentsOf(await file.text(), file.name);
  if (!documents.length) throw new Error("The file holds no document with a text.");
  const there = (await json("indexes", { signal })).data.some((index) => index.name === name);
  const place = `indexes/${encodeURIComponent(name)}`;
  if (!there) await json(place, { method: "PUT", body: { settings: { document_mode: mode } }, signal });

  const bar = el("progress", { max: documents.length * 2, value: 0, "aria-label": "progress" });
  const words = el("p", { class: "fine", role: "status" });
  show(out, bar, words);
  const jobs = [];
  let sent = 0;
  for (const batch of batches(documents)) {
    const written = await json(`${place}/documents`, { method: "POST", body: { documents: batch }, signal });
    jobs.push(written.job);
    bar.value = sent += batch.length;
    words.textContent = `${sent} of ${documents.length} sent`;
  }
  await finished(name);
  let before = 0;
  let failed = 0;
  let first = null;
  for (const { id } of jobs) {
    let now = null;
    await stream(`jobs/${encodeURIComponent(id)}/events`, { signal }, (_, job) => {
      now = job;
      bar.value = sent + before + job.total - job.left;
      const rate = job.rate ? `, ${job.rate.toFixed(1)} a second` : "";
      words.textContent = `${before + job.total - job.left} of ${sent} embedded${rate}`;
    });
    before += now.total;
    failed += now.failed;
    first ??= now.failures[0] ?? null;
  }
  bar.value = sent * 2;
  words.textContent = `${sent - failed} documents are in “${name}”.`;
  if (failed) out.append(el("p", { class: "problem", role: "alert" }, `${failed} could not be embedded. The first, ${first.id}: ${first.reason}`));
}

function* batches(documents) {
  let batch = [];
  let size = 0;
  for (const document of documents) {
    const length = JSON.stringify(document).length;
    if (batch.length && (batch.length === BATCH_DOCUMENTS || size + length > BATCH_CHARACTERS)) {
      yield batch;
      batch = [];
      size = 0;
    }
    batch.push(document);
    size += length;
  }
  if (batch.length) yield batch;
}

function documentsOf(content, name) {
  const text = content.replace(/^\uFEFF/, "");
  const rows = /\.(csv|tsv)$/i.test(name) ? table(text, /\.tsv$/i.test(name) ? "\t" : ",") : lines(text);
  return rows.map(documentOf).filter((document) => document.text.trim());
}

function documentOf(row, at) {
  if (typeof row === "string") return { id: `row-${at + 1}`, text: row };
  if (row === null || typeof row !== "object" || Array.isArray(row)) throw new Error(`Row ${at + 1} is not an object.`);
  const field = TEXT_FIELDS.find((one) => typeof row[one] === "string");
  const { id, ...rest } = row;
  const metadata = Object.fromEntries(Object.entries(rest).filter(([key]) => key !== field));
  const all = Object.values(rest).filter((value) => typeof value === "string").join(". ");
  const known = id === undefined || id === null || id === "" ? `row-${at + 1}` : String(id);
  return { id: known, text: field ? row[field] : all, metadata: field ? metadata : rest };
}

function lines(text) {
  if (text.trimStart().startsWith("[")) {
    try {
      return JSON.parse(text);
    } catch {
      throw new Error("The file is not JSON.");
    }
  }
  return text.split("\n").map((line, at) => ({ line: line.trim(), at })).filter(({ line }) => line).map(({ line, at }) => {
    try {
      return JSON.parse(line);
    } catch {
      throw new Error(`Line ${at + 1} is not JSON.`);
    }
  });
}

// CSV as RFC 4180 has it: quotes around a field, doubled inside it; line ends may be anything.
function table(text, comma) {
  const rows = [];
  let row = [];
  let field = "";
  let quoted = false;
  const end = () => {
    row.push(field);
    field = "";
    if (row.length > 1 || row[0] !== "") rows.push(row);
    row = [];
  };
  for (let i = 0; i < text.length; i++) {
    const character = text[i];
    if (quoted) {
      if (character !== '"') field += character;
      else if (text[i + 1] === '"') field += text[++i];
      else quoted = false;
    } else if (character === '"' && field === "") quoted = true;
    else if (character === comma) {
      row.push(field);
      field = "";
    } else if (character === "\n") end();
    else if (character !== "\r") field += character;
  }
  if (quoted) throw new Error("A quoted field has no end.");
  if (field !== "" || row.length) end();
  const [head, ...body] = rows;
  if (!head || !body.length) throw new Error("The file needs a line of names and at least one row.");
  return body.map((cells) => Object.fromEntries(head.map((name, at) => [name.trim(), cells[at] ?? ""])));
}
