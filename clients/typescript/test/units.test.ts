import assert from "node:assert/strict";
import { test } from "node:test";
import { ApiError, ConnectionFailed, GraceClient, TimedOut, decode, similarity } from "../src/index.js";
import { retryAfterS } from "../src/errors.js";
import { EventParser } from "../src/events.js";
import { segment } from "../src/http.js";
import { RETRIES, waitS } from "../src/retries.js";

test("base64 of little-endian float32 is decoded to the numbers that went in", () => {
  const numbers = [0, -1.5, Math.fround(0.1), 3.4028234663852886e38, -Infinity, 1e-45];
  const bytes = new Uint8Array(4 * numbers.length);
  const view = new DataView(bytes.buffer);
  numbers.forEach((value, i) => view.setFloat32(4 * i, value, true));
  const decoded = decode(Buffer.from(bytes).toString("base64"));
  assert.deepEqual(Array.from(decoded), numbers.map(Math.fround));
  assert.throws(() => decode(Buffer.from([1, 2, 3]).toString("base64")), RangeError);
});

test("similarity is the cosine", () => {
  assert.ok(Math.abs(similarity([1, 2, 3], [2, 4, 6]) - 1) < 1e-12);
  assert.equal(similarity([1, 0], [0, 1]), 0);
  assert.equal(similarity([0, 0], [0, 1]), 0);
  assert.throws(() => similarity([1], [1, 2]), RangeError);
});

test("events are the same wherever the stream is cut", () => {
  const stream = "event: rationale\r\ndata: {\"delta\": \"a\u2028b\"}\r\n\r\n: kept alive\n\ndata: one\ndata: two\n\nevent: done\rdata: 1\r\r\n";
  const whole = [...new EventParser().feed(stream)];
  assert.deepEqual(whole, [
    { name: "rationale", data: "{\"delta\": \"a\u2028b\"}" },
    { name: "message", data: "one\ntwo" },
    { name: "done", data: "1" },
  ]);
  for (let cut = 0; cut <= stream.length; cut++) {
    const parser = new EventParser();
    assert.deepEqual([...parser.feed(stream.slice(0, cut)), ...parser.feed(stream.slice(cut))], whole, `cut at ${cut}`);
  }
});

test("Retry-After is a number or a date", () => {
  assert.equal(retryAfterS("7"), 7);
  assert.equal(retryAfterS("Thu, 01 Jan 1970 00:01:00 GMT", 30_000), 30);
  assert.equal(retryAfterS("soon"), null);
  assert.equal(retryAfterS("-5"), null);
  assert.equal(retryAfterS(null), null);
});

test("what was refused is asked again, never before the server said; what timed out is not", () => {
  const refused = new ApiError({}, 429, null, 3);
  const retries = { ...RETRIES, draw: () => 0.5 };
  assert.ok((waitS(retries, refused, 1, false) ?? 0) >= 3);
  assert.equal(waitS(retries, refused, 4, false), null);
  assert.equal(waitS(retries, new ApiError({}, 429, null, 3600), 1, true), null);
  assert.equal(waitS(retries, new TimedOut("late"), 1, true), null);
  assert.equal(waitS(retries, new ConnectionFailed("broken"), 1, false), null);
  assert.ok((waitS(retries, new ConnectionFailed("broken"), 1, true) ?? 0) > 0);
  assert.equal(waitS(retries, new ApiError({}, 422, null), 1, true), null);
});

test("a name is one part of a path, whatever it holds", () => {
  assert.equal(segment("a/b c"), "a%2Fb%20c");
  assert.equal(segment("x\ud800"), "x%EF%BF%BD");
  for (const name of ["", ".", ".."]) assert.throws(() => segment(name), RangeError);
});

function answering(...answers: (() => Response | Promise<Response>)[]) {
  let calls = 0;
  const fetch = async (_: unknown, init?: RequestInit) => {
    const answer = answers[Math.min(calls++, answers.length - 1)]!;
    const signal = init!.signal!;
    signal.throwIfAborted();
    return Promise.race([
      answer(),
      new Promise<never>((_, reject) => signal.addEventListener("abort", () => reject(signal.reason))),
    ]);
  };
  return { fetch: fetch as typeof globalThis.fetch, calls: () => calls };
}

const json = (body: unknown, status = 200, headers: Record<string, string> = {}) => () =>
  new Response(JSON.stringify(body), { status, headers: { "content-type": "application/json", ...headers } });
const never = () => new Promise<Response>(() => undefined);

test("a full server is asked again until it has room", async () => {
  const full = json({ error: { message: "full", code: "overloaded" } }, 429, { "retry-after": "0" });
  const { fetch, calls } = answering(full, full, json({ model: "m" }));
  const client = new GraceClient("http://test", { fetch, retries: { firstWaitS: 0.001 } });
  assert.equal((await client.info()).model, "m");
  assert.equal(calls(), 3);
});

test("an error tells the field, the code and the request", async () => {
  const told = { error: { message: "k must be at most 1000", type: "invalid_request_error", param: "k", code: "invalid_value" } };
  const { fetch } = answering(json(told, 422, { "x-request-id": "abc" }));
  const error = await new GraceClient("http://test", { fetch }).search("q").catch((error: unknown) => error);
  assert.ok(error instanceof ApiError);
  assert.deepEqual([error.status, error.param, error.code, error.requestId], [422, "k", "invalid_value", "abc"]);
  assert.match(error.message, /k must be at most 1000.*422 invalid_value.*request abc/);
});

test("a deadline is TimedOut, the caller's own abort stays what it is", async () => {
  const { fetch } = answering(never);
  await assert.rejects(new GraceClient("http://test", { fetch, timeoutMs: 20 }).info(), TimedOut);
  const reason = new Error("mine");
  const signal = AbortSignal.abort(reason);
  await assert.rejects(new GraceClient("http://test", { fetch }).info({ signal }), reason);
});

test("a time that no timer can hold is no limit, and one that is over at once is refused", async () => {
  for (const timeoutMs of [Infinity, 2 ** 31, 2 ** 40]) {
    const { fetch } = answering(later(json({ model: "m" })));
    assert.equal((await new GraceClient("http://test", { fetch, timeoutMs }).info()).model, "m");
    const done = answering(later(json({ id: "j", finished_at: 1 })));
    assert.equal((await new GraceClient("http://test", { fetch: done.fetch }).jobs.wait("j", { timeoutMs })).id, "j");
  }
  for (const timeoutMs of [0, -1, NaN])
    assert.throws(() => new GraceClient("http://test", { timeoutMs }), /timeoutMs must be more than 0/);
});

test("neither a pause that the server asked for nor a slow reader is silence of the server", async () => {
  const delta = 'event: rationale\ndata: {"delta": "a"}\n\n';
  const done = 'event: embedding\ndata: {"index": 0, "embedding": "AACAPw=="}\n\nevent: done\ndata: {"model": "m"}\n\n';
  const full = json({}, 429, { "retry-after": "1" });
  const stream = () => new Response(delta + delta + done, { headers: { "content-type": "text/event-stream" } });
  const { fetch, calls } = answering(full, stream);
  const asked = new GraceClient("http://test", { fetch, timeoutMs: 300 }).embedStream("x");
  for await (const _ of asked) await new Promise((resolve) => setTimeout(resolve, 500));
  assert.equal(asked.result.model, "m");
  assert.equal(calls(), 2);
  const silent = (async (_: unknown, init?: RequestInit) => {
    const body = new ReadableStream<Uint8Array>({
      start(controller) {
        controller.enqueue(new TextEncoder().encode(delta));
        init!.signal!.addEventListener("abort", () => controller.error(init!.signal!.reason));
      },
    });
    return new Response(body, { headers: { "content-type": "text/event-stream" } });
  }) as typeof globalThis.fetch;
  await assert.rejects(new GraceClient("http://test", { fetch: silent, timeoutMs: 50 }).embedStream("x").read(), TimedOut);
});

test("space around a key is no part of it, and what no header holds is refused without being named", async () => {
  const sent: (string | null)[] = [];
  const fetch = (async (_: unknown, init?: RequestInit) => {
    sent.push(new Headers(init!.headers).get("authorization"));
    return json({ model: "m" })();
  }) as typeof globalThis.fetch;
  for (const apiKey of ["secret\n", " secret\r\n"]) await new GraceClient("http://test", { fetch, apiKey }).info();
  assert.deepEqual(sent, ["Bearer secret", "Bearer secret"]);
  const unnamed = (error: unknown) => error instanceof TypeError && !error.message.includes("sec");
  for (const apiKey of ["sec\nret", "sec ret", "secret\u2026", "\u200bsecret", " "])
    assert.throws(() => new GraceClient("http://test", { apiKey }), unnamed);
  assert.throws(() => new GraceClient("http://test", { headers: { "x-key": "sec\nret" } }), unnamed);
});

test("where Node's fetch gives up before the deadline, that is a timeout too, and not asked again", async () => {
  for (const code of ["UND_ERR_HEADERS_TIMEOUT", "UND_ERR_BODY_TIMEOUT"]) {
    const { fetch, calls } = answering(() => {
      throw new TypeError("fetch failed", { cause: Object.assign(new Error("Timeout Error"), { code }) });
    });
    const error = await new GraceClient("http://test", { fetch }).embed("x").catch((error: unknown) => error);
    assert.ok(error instanceof TimedOut);
    assert.match(error.message, /300 s at most/);
    assert.equal(calls(), 1);
  }
  const { fetch, calls } = answering(() => {
    throw new TypeError("fetch failed", { cause: Object.assign(new Error("reset"), { code: "ECONNRESET" }) });
  });
  const client = new GraceClient("http://test", { fetch, retries: { firstWaitS: 0.001 } });
  await assert.rejects(client.embed("x"), (error) => error instanceof ConnectionFailed && !(error instanceof TimedOut));
  assert.equal(calls(), 4);
});

const written = { documents: 1, unchanged: 0, job: { id: "j", finished_at: 1, failed: 0, failures: [] } };
const documents = (count: number) => Array.from({ length: count }, (_, i) => ({ id: `${i}`, text: "x" }));
const later = (answer: () => Response) => async () => {
  await new Promise((resolve) => setTimeout(resolve, 5));
  return answer();
};

test("one batch that fails ends the others", async () => {
  const refused = json({ error: { message: "no", code: "invalid_value" } }, 422);
  for (const [answer, method] of [
    [json({ data: [] }), (client: GraceClient) => client.embedEach(Array(100).fill("x"), { batchSize: 1 })],
    [json(written), (client: GraceClient) => client.documents.upload("i", documents(100), { batchSize: 1 })],
  ] as const) {
    const { fetch, calls } = answering(refused, later(answer));
    await assert.rejects(method(new GraceClient("http://test", { fetch })), ApiError);
    await new Promise((resolve) => setTimeout(resolve, 50));
    assert.equal(calls(), 4);
    const hanging = answering(never, refused, never);
    await assert.rejects(method(new GraceClient("http://test", { fetch: hanging.fetch })), ApiError);
  }
});

test("the caller's abort ends all batches, and is what is thrown", async () => {
  const reason = new Error("mine");
  const controller = new AbortController();
  const { fetch, calls } = answering(never);
  const client = new GraceClient("http://test", { fetch });
  const upload = client.documents.upload("i", documents(100), { batchSize: 1, signal: controller.signal });
  setTimeout(() => controller.abort(reason), 5);
  await assert.rejects(upload, reason);
  await assert.rejects(client.embedEach(["x"], { signal: AbortSignal.abort(reason) }), reason);
  assert.equal(calls(), 4);
});

test("an abort ends an upload whose source still owes a document", async () => {
  const reason = new Error("mine");
  const controller = new AbortController();
  async function* source() {
    yield* documents(1);
    await new Promise(() => undefined);
  }
  const { fetch } = answering(json(written));
  const client = new GraceClient("http://test", { fetch });
  const upload = client.documents.upload("i", source(), { batchSize: 1, signal: controller.signal });
  setTimeout(() => controller.abort(reason), 20);
  const late = new Promise((resolve) => setTimeout(resolve, 2000, "still waiting"));
  await assert.rejects(Promise.race([upload, late]), reason);
});

test("each batch goes with its own texts' rationales", async () => {
  const sent: [string[], string[]][] = [];
  const fetch = (async (_: unknown, init?: RequestInit) => {
    const { input, rationale } = JSON.parse(init!.body as string) as { input: string[]; rationale: string[] };
    sent.push([input, rationale]);
    return json({ data: input.map((_, index) => ({ index, embedding: "AACAPw==" })) })();
  }) as typeof globalThis.fetch;
  const client = new GraceClient("http://test", { fetch });
  await client.embedEach(["a", "b", "c"], { rationale: ["of a", "of b", "of c"], batchSize: 2, atOnce: 1 });
  assert.deepEqual(sent, [[["a", "b"], ["of a", "of b"]], [["c"], ["of c"]]]);
  await assert.rejects(client.embedEach(["a", "b"], { rationale: ["of a"] }), RangeError);
});

test("a batch is as large as what is sent of it, metadata and digits included", async () => {
  const sizes: number[] = [];
  const fetch = (async (_: unknown, init?: RequestInit) => {
    sizes.push(Buffer.byteLength(init!.body as string));
    const sent = (JSON.parse(init!.body as string) as { documents: unknown[] }).documents.length;
    return json({ ...written, documents: sent })();
  }) as typeof globalThis.fetch;
  const client = new GraceClient("http://test", { fetch });
  const large = [
    ...Array.from({ length: 9 }, (_, i) => ({ id: `${i}`, metadata: { note: "\u00fc".repeat(2 ** 19) } })),
    ...Array.from({ length: 40 }, (_, i) => ({ id: `v${i}`, vector: new Float32Array(10_000).fill(0.1) })),
  ];
  assert.equal((await client.documents.upload("i", large)).written, large.length);
  assert.ok(sizes.length >= 4 && Math.max(...sizes) <= 4 * 2 ** 20 + 100, `${sizes}`);
});

test("options that count are whole numbers of at least 1, and the error names them", async () => {
  const { fetch, calls } = answering(json(written));
  const client = new GraceClient("http://test", { fetch });
  for (const value of [0, -1, 1.5, NaN])
    for (const name of ["atOnce", "batchSize"]) {
      const wrong = (error: unknown) => error instanceof RangeError && error.message.startsWith(`${name} must be`);
      await assert.rejects(client.embedEach(["x"], { [name]: value }), wrong);
      await assert.rejects(client.documents.upload("i", documents(1), { [name]: value }), wrong);
    }
  assert.equal(calls(), 0);
});

test("what a stopped job leaves is told", async () => {
  const job = { ...written.job, state: "cancelled", left: 3 };
  const { fetch } = answering(json({ ...written, job }));
  const done = await new GraceClient("http://test", { fetch }).documents.upload("i", documents(1));
  assert.deepEqual([done.failed, done.cancelled], [0, 3]);
});

test("an upload waits for room as often as it is told to, one request four times at most", async () => {
  const full = json({ error: { message: "full", code: "queue_full" } }, 429, { "retry-after": "0" });
  const retries = { firstWaitS: 0.001 };
  const patient = answering(full, full, full, full, full, full, json(written));
  const upload = new GraceClient("http://test", { fetch: patient.fetch, retries }).documents.upload("i", documents(1));
  assert.equal((await upload).written, 1);
  assert.equal(patient.calls(), 7);
  const impatient = answering(full);
  await assert.rejects(new GraceClient("http://test", { fetch: impatient.fetch, retries }).info(), ApiError);
  assert.equal(impatient.calls(), 4);
  const once = answering(full);
  const client = new GraceClient("http://test", { fetch: once.fetch, retries: { attempts: 1 } });
  await assert.rejects(client.documents.upload("i", documents(1)), ApiError);
  assert.equal(once.calls(), 1);
});

test("a stream that ends early is an error, and leaving it early closes the connection", async () => {
  let closed = false;
  const body = (...pieces: string[]) =>
    new ReadableStream<Uint8Array>({
      pull(controller) {
        const piece = pieces.shift();
        if (piece === undefined) controller.close();
        else controller.enqueue(new TextEncoder().encode(piece));
      },
      cancel() {
        closed = true;
      },
    });
  const stream = (...pieces: string[]) => () =>
    new Response(body(...pieces), { headers: { "content-type": "text/event-stream" } });
  const delta = 'event: rationale\ndata: {"delta": "a"}\n\n';
  const client = (answer: () => Response) => new GraceClient("http://test", { fetch: answering(answer).fetch });
  await assert.rejects(client(stream(delta)).embedStream("x").read(), ConnectionFailed);
  const failed = 'event: error\ndata: {"error": {"message": "gone", "code": "engine_error"}}\n\n';
  await assert.rejects(client(stream(delta, failed)).embedStream("x").read(), ApiError);
  for await (const piece of client(stream(delta, delta, delta)).embedStream("x")) {
    assert.equal(piece, "a");
    break;
  }
  assert.ok(closed);
});
