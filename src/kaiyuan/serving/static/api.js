// The server's API. Every failure is an ApiError whose `kind` is a key of words.js.

import { setTabValue, tabValue } from "./preferences.js";

const ROOT_URL = new URL(location.pathname.replace(/(static\/)?(index\.html)?$/, ""), location.origin);
let key = tabValue("key") ?? "";

export class ApiError extends Error {
  constructor(kind, message = "") {
    super(message);
    this.kind = kind;
  }
}

/** Whether `text` can be sent as a key in a header. */
export function isKey(text) {
  return /^[\x21-\x7e]+$/.test(text);
}

/** Use this key from now on, until the tab is closed; "" forgets it. */
export function setKey(text) {
  key = text;
  setTabValue("key", text);
}

export function hasKey() {
  return key !== "";
}

/** The first model: {id, context}; context is 0 if the server does not say. */
export async function servedModel(signal) {
  const reply = await request("v1/models", { signal });
  const model = (await json(reply)).data?.[0];
  if (typeof model?.id !== "string") throw new ApiError("strange", "/v1/models");
  return { id: model.id, context: Number.isFinite(model.max_model_len) ? model.max_model_len : 0 };
}

/** {count, context} of {prompt} or {messages}. */
export async function countTokens(body, signal) {
  const counted = await json(await request("tokenize", { body, signal }));
  if (!Number.isFinite(counted.count)) throw new ApiError("strange", "/tokenize");
  return { count: counted.count, context: Number.isFinite(counted.max_model_len) ? counted.max_model_len : 0 };
}

/** The answer's events in order: {text}, {finish}, {usage: {prompt, completion}}. */
export async function* streamChat(body, signal) {
  const reply = await request("v1/chat/completions", {
    body: { ...body, stream: true, stream_options: { include_usage: true } }, signal,
  });
  let finished = false;
  for await (const data of serverEvents(reply, signal)) {
    if (data === "[DONE]") return;
    for (const event of eventsOf(parse(data))) {
      finished ||= "finish" in event;
      yield event;
    }
  }
  if (!finished) throw new ApiError("broken");
}

function eventsOf(chunk) {
  if (chunk.error) throw errorOf(chunk.error, 500);
  const events = [];
  const choice = chunk.choices?.[0];
  if (typeof choice?.delta?.content === "string" && choice.delta.content !== "") events.push({ text: choice.delta.content });
  if (typeof choice?.finish_reason === "string") events.push({ finish: choice.finish_reason });
  if (chunk.usage) events.push({ usage: { prompt: chunk.usage.prompt_tokens, completion: chunk.usage.completion_tokens } });
  return events;
}

async function request(path, { body, signal } = {}) {
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  const options = { headers, signal, cache: "no-store" };
  if (body) Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  if (body) headers["content-type"] = "application/json";
  let reply;
  try {
    reply = await fetch(new URL(path, ROOT_URL), options);
  } catch (error) {
    throw signal?.aborted ? error : new ApiError("offline");
  }
  if (!reply.ok) throw await failure(reply);
  return reply;
}

async function failure(reply) {
  let error = null;
  try {
    ({ error } = await reply.json());
  } catch {
    // Not the API's shape, perhaps a proxy's page: the status has to do.
  }
  return errorOf(error ?? {}, reply.status);
}

function errorOf(error, status) {
  const message = typeof error.message === "string" ? error.message.slice(0, 1000) : `HTTP ${status}`;
  if (status === 401) return new ApiError("locked", message);
  if (status === 429 || error.code === "queue_full") return new ApiError("busy", message);
  if (error.code === "draining") return new ApiError("draining", message);
  if (error.code === "context_length_exceeded") return new ApiError("tooLong", message);
  if (status === 502 || status === 504 && !error.code) return new ApiError("offline", message);
  return new ApiError(status >= 500 ? "server" : "refused", message);
}

async function json(reply) {
  try {
    return (await reply.json()) ?? {};
  } catch {
    throw new ApiError("strange", reply.url);
  }
}

function parse(data) {
  try {
    return JSON.parse(data) ?? {};
  } catch {
    throw new ApiError("strange", data.slice(0, 100));
  }
}

/** The data of each server-sent event. */
async function* serverEvents(reply, signal) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const events = (rest + value).split(/\r?\n\r?\n/);
      rest = events.pop();
      for (const event of events) yield* dataOf(event);
    }
  } catch (error) {
    throw signal?.aborted || error instanceof ApiError ? error : new ApiError("broken");
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** The event's data lines, joined; other fields and comments are of no use here. */
function* dataOf(event) {
  const lines = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
  if (lines.length) yield lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n");
}
