// Rows out of a JSON-lines, JSON, CSV or TSV file, and documents out of rows. Pure: text in; columns, rows and what could
// not be read out.

// {columns: [name], rows: [{line, value: {column: value}}], bad: [{line, reason}]}; lines count from 1.
export function readRows(content, fileName) {
  const text = content.replace(/^\uFEFF/, "");
  const found = /\.(csv|tsv)$/i.test(fileName) ? table(text, /\.tsv$/i.test(fileName) ? "\t" : ",") : json(text);
  const columns = new Set();
  for (const { value } of found.rows) for (const name of Object.keys(value)) columns.add(name);
  return { columns: [...columns], ...found };
}

// {documents: [{line, document}], bad: [{line, reason}]} of what `readRows` found. Without a column for the id, the file
// and the line are it: another file's rows are other documents.
export function documentsOf({ rows, bad: unread }, columns, fileName) {
  const bad = [...unread];
  const documents = [];
  const seen = new Map();
  for (const { line, value } of rows) {
    const text = columns.text.map((name) => value[name]).filter((part) => part !== undefined && part !== null && part !== "").map(String).join("\n");
    const id = columns.id ? String(value[columns.id] ?? "") : `${fileName}:${line}`;
    if (!text.trim()) bad.push({ line, reason: "it has no text" });
    else if (!id) bad.push({ line, reason: "it has no id" });
    else if (seen.has(id)) bad.push({ line, reason: `its id “${short(id)}” is that of line ${seen.get(id)}` });
    else {
      seen.set(id, line);
      const metadata = Object.fromEntries(Object.entries(value).filter(([name, one]) => !columns.text.includes(name) && name !== columns.id && one !== null && one !== ""));
      documents.push({ line, document: { id, text, metadata } });
    }
  }
  bad.sort((a, b) => a.line - b.line);
  return { documents, bad };
}

export const short = (words) => (words.length > 80 ? `${words.slice(0, 80)}…` : words);

// JSON.parse rounds whole numbers over 2^53: ids of two rows may become one. Such a number is kept as its digits, words
// as a CSV's are; a browser that does not tell a number's digits leaves them out.
function parse(text) {
  if (!/\d{16}/.test(text)) return JSON.parse(text);
  return JSON.parse(text, (_, value, context) => {
    if (typeof value !== "number" || !Number.isInteger(value) || Number.isSafeInteger(value)) return value;
    if (context?.source === undefined) throw new RangeError("it holds a whole number that this browser would round");
    return /^-?\d+$/.test(context.source) ? context.source : value;
  });
}

function json(text) {
  const rows = [];
  const bad = [];
  const take = (value, line) => {
    if (typeof value === "string") rows.push({ line, value: { text: value } });
    else if (value === null || typeof value !== "object" || Array.isArray(value)) bad.push({ line, reason: "it is no object" });
    else rows.push({ line, value });
  };
  if (text.trimStart().startsWith("[")) {
    let values;
    try {
      values = parse(text);
    } catch (error) {
      if (error instanceof RangeError) throw new Error(`Such a list cannot be uploaded: ${error.message}. Write a row a line instead.`);
      throw new Error("The file begins like a JSON list, but is none.");
    }
    values.forEach((value, at) => take(value, at + 1));
    return { rows, bad };
  }
  text.split("\n").forEach((line, at) => {
    if (!line.trim()) return;
    try {
      take(parse(line), at + 1);
    } catch (error) {
      bad.push({ line: at + 1, reason: error instanceof RangeError ? error.message : "it is not JSON" });
    }
  });
  return { rows, bad };
}

// CSV as RFC 4180 has it: quotes around a field, doubled inside it; line ends may be anything.
function table(text, comma) {
  const [head, ...body] = records(text, comma);
  if (!head) return { rows: [], bad: [] };
  const names = head.cells.map((name) => name.trim());
  const twice = names.find((name, at) => !name || names.indexOf(name) !== at);
  if (twice !== undefined) throw new Error(twice ? `Two columns are named “${twice}”.` : "A column has no name: the first line must hold the names.");
  const rows = [];
  const bad = [];
  for (const { line, cells } of body) {
    if (cells.length === names.length) rows.push({ line, value: Object.fromEntries(names.map((name, at) => [name, cells[at]])) });
    else bad.push({ line, reason: `it has ${cells.length} fields, the first line names ${names.length}` });
  }
  for (const name of names) if (rows.some(({ value }) => value[name]) && rows.every(({ value }) => isNumber(value[name]))) asNumbers(rows, name);
  return { rows, bad };
}

// A column of numbers alone becomes numbers, to filter and colour by; one with 007 in it stays words.
const isNumber = (cell) => cell === "" || (cell.length < 16 && /^-?(0|[1-9]\d*)(\.\d+)?$/.test(cell));
function asNumbers(rows, name) {
  for (const { value } of rows) value[name] = value[name] === "" ? null : Number(value[name]);
}

function records(text, comma) {
  const found = [];
  let cells = [];
  let field = "";
  let quoted = false;
  let line = 1;
  let began = 1;
  const end = () => {
    cells.push(field);
    field = "";
    if (cells.length > 1 || cells[0] !== "") found.push({ line: began, cells });
    cells = [];
  };
  for (let i = 0; i < text.length; i++) {
    const character = text[i];
    if (character === "\n") line += 1;
    if (quoted) {
      if (character !== '"') field += character;
      else if (text[i + 1] === '"') field += text[++i];
      else quoted = false;
    } else if (character === '"' && field === "") quoted = true;
    else if (character === comma) {
      cells.push(field);
      field = "";
    } else if (character === "\n" || (character === "\r" && text[i + 1] !== "\n")) {
      end();
      began = line;
    } else if (character !== "\r") field += character;
  }
  if (quoted) throw new Error(`Line ${began} has a quoted field without an end.`);
  if (field !== "" || cells.length) end();
  return found;
}
