// The way to the API: one function, one kind of error, the key only in this tab's session storage.

import { askForKey } from "./dom.js";
import { Events } from "./sse.js";

const KEY = "grace-api-key";
const POSSIBLE = /^[!-~]+$/; // what a header holds and a service takes as a key; with anything else fetch itself fails

if (!POSSIBLE.test(sessionStorage.getItem(KEY) ?? "x")) sessionStorage.removeItem(KEY);

export class Failure extends Error {
  // What the service said, in its own words, with the id under which its log knows the request.
  constructor(message, { status = 0, param = null, requestId = "" } = {}) {
    super(message);
    Object.assign(this, { status, param, requestId });
  }
}

export async function request(path, { method = "GET", body, signal } = {}) {
  for (;;) {
    const headers = {};
    const key = sessionStorage.getItem(KEY);
    if (key) headers.authorization = `Bearer ${key}`;
    if (body !== undefined) headers["content-type"] = "application/json";
    let reply;
    try {
      reply = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Failure("The service cannot be reached. Is it still running?");
    }
    if (reply.status === 401) {
      let given = await askForKey(Boolean(key));
      while (given !== null && !POSSIBLE.test(given)) given = await askForKey(true);
      if (given === null) throw await failure(reply);
      sessionStorage.setItem(KEY, given);
      continue;
    }
    if (!reply.ok) throw await failure(reply);
    return reply;
  }
}

export async function json(path, options) {
  return (await request(path, options)).json();
}

// Calls `take(event, data)` for each server-sent event, data parsed. An event "error" is thrown.
export async function stream(path, options, take) {
  const reply = await request(path, options);
  const events = new Events();
  const decoder = new TextDecoder();
  const reader = reply.body.getReader();
  let last = "";
  for (;;) {
    const { value, done } = await reader.read();
    const found = events.push(done ? decoder.decode() : decoder.decode(value, { stream: true }));
    for (const { event, data } of found) {
      const content = JSON.parse(data);
      last = event;
      if (event === "error") throw told(content, reply);
      take(event, content);
    }
    if (done) break;
  }
  if (last !== "done") throw new Failure("The answer broke off before its end.", { requestId: idOf(reply) });
}

async function failure(reply) {
  let content = null;
  try {
    content = await reply.json();
  } catch {
    // Not ours: a proxy's page. The status is all there is to say.
  }
  return told(content, reply);
}

function told(content, reply) {
  const error = content && content.error;
  const message = error ? error.message : `The service answered with status ${reply.status}.`;
  const after = reply.headers.get("retry-after");
  return new Failure(after ? `${message} (try again in ${after} s)` : message, {
    status: reply.status,
    param: error ? error.param : null,
    requestId: idOf(reply),
  });
}

function idOf(reply) {
  return reply.headers.get("x-request-id") || "";
}
