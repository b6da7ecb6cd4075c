// Against a running server: GRACE_URL names it. Its model may be any.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { ApiError, GraceClient, similarity } from "../src/index.js";

const url = process.env["GRACE_URL"];
const skip = url === undefined ? "GRACE_URL names no server" : false;
const client = new GraceClient(url ?? "http://127.0.0.1:8000");
const index = `typescript-${process.pid}`;
const TEXTS = ["Bread rises because yeast makes gas.", "The moon pulls the sea: tides.", "Iron rusts in wet air.", "Bees dance to tell the way."];

before(async () => {
  if (!skip) await client.waitUntilReady({ signal: AbortSignal.timeout(120_000) });
});
after(async () => {
  if (!skip) await client.indexes.delete(index).catch(() => undefined);
});

test("vectors arrive as the server has them", { skip }, async () => {
  const { data, usage, fingerprint } = await client.embed(TEXTS.slice(0, 2), { explain: true });
  assert.equal(data.length, 2);
  const asNumbers = await fetch(`${url}/embed`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ input: TEXTS.slice(0, 2), encoding_format: "float" }),
  });
  const plain = ((await asNumbers.json()) as { data: { embedding: number[] }[] }).data;
  data.forEach((item, i) => {
    assert.ok(item.embedding instanceof Float32Array);
    assert.ok(similarity(item.embedding, plain[i]!.embedding) > 0.99999);
    assert.ok(Math.abs(item.embedding[0]! - plain[i]!.embedding[0]!) < 1e-6);
    assert.ok(item.rationale && item.segments && item.segments.length > 0);
  });
  assert.ok(usage.total_tokens > 0 && fingerprint.length > 0);
});

test("a rationale is read while it is written", { skip }, async () => {
  const stream = client.embedStream(TEXTS[0]!);
  assert.throws(() => stream.result, RangeError);
  const pieces: string[] = [];
  for await (const piece of stream) pieces.push(piece);
  const [item] = stream.result.data;
  assert.equal(pieces.join(""), item?.rationale?.text);
  assert.ok(item?.embedding instanceof Float32Array);
});

test("many texts keep their order", { skip }, async () => {
  const told: number[] = [];
  const texts = Array.from({ length: 10 }, (_, i) => TEXTS[i % 4]!);
  const each = await client.embedEach(texts, { mode: "direct", batchSize: 3, progress: (done) => told.push(done) });
  assert.deepEqual(each.map((item) => item.index), texts.map((_, i) => i));
  assert.equal(told.at(-1), 10);
  assert.ok(similarity(each[0]!.embedding, each[4]!.embedding) > 0.99999);
});

test("documents are written, waited for, found, listed and deleted", { skip }, async () => {
  await client.indexes.create(index, { document_mode: "direct", query_mode: "direct" });
  const documents = TEXTS.map((text, i) => ({ id: `d/${i}`, text, metadata: { even: i % 2 === 0 } }));
  const done = await client.documents.upload(index, documents, { batchSize: 3, atOnce: 2 });
  assert.deepEqual([done.written, done.failed, done.jobs.length], [4, 0, 2]);
  assert.equal((await client.documents.upload(index, documents)).unchanged, 4);

  const found = await client.search(TEXTS[1]!, { index, k: 2, explain: true });
  assert.equal(found.hits[0]?.id, "d/1");
  const explanation = found.hits[0]?.explanation;
  const sum = explanation!.pairs.reduce((total, pair) => total + pair.contribution, 0);
  assert.ok(Math.abs(sum - found.hits[0]!.score) < 1e-4);
  const even = { field: "meta.even", operator: "==", value: true };
  const filtered = await client.searchEach(TEXTS, { index, k: 4, method: "hybrid", filter: even });
  assert.deepEqual(filtered.map((one) => one.hits.map((hit) => hit.id).sort()), TEXTS.map(() => ["d/0", "d/2"]));

  assert.equal((await client.documents.get(index, "d/3")).text, TEXTS[3]);
  const ids: string[] = [];
  for await (const one of client.documents.list(index)) ids.push(one.id);
  assert.deepEqual(ids, ["d/0", "d/1", "d/2", "d/3"]);
  assert.equal(await client.documents.delete(index, { ids: ["d/3", "none"] }), 1);
  assert.equal(await client.documents.delete(index, { filter: even }), 2);
  assert.equal((await client.indexes.get(index)).rows, 1);
  await client.indexes.setAlias(`${index}-alias`, index);
  assert.ok((await client.indexes.get(`${index}-alias`)).aliases.includes(`${index}-alias`));
  await client.indexes.removeAlias(`${index}-alias`);
  assert.ok((await client.indexes.list()).some((one) => one.name === index));
});

test("a score is taken apart, and its parts add up to it", { skip }, async () => {
  const apart = await client.explain("why does bread rise", TEXTS[0]!);
  const sum = apart.table.flat().reduce((total, cell) => total + cell, 0);
  assert.ok(Math.abs(sum - apart.score) < 1e-4);
});

test("what the server refuses says why", { skip }, async () => {
  const error = await client.embed("x", { dimensions: 10 ** 6 }).catch((error: unknown) => error);
  assert.ok(error instanceof ApiError);
  assert.equal(error.status, 422);
  assert.equal(error.param, "dimensions");
  assert.ok(error.requestId);
  const missing = await client.documents.get("no-such-index", "x").catch((error: unknown) => error);
  assert.ok(missing instanceof ApiError && missing.status === 404);
});

test("what is served is told", { skip }, async () => {
  assert.ok((await client.info()).limits.dimensions > 0);
  assert.match(await client.metrics(), /grace_/);
  assert.ok(await client.live());
  assert.ok(await client.ready());
  assert.equal(await new GraceClient("http://127.0.0.1:9", { retries: { attempts: 1 } }).ready(), false);
});
