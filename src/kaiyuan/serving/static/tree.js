// A conversation: a tree of messages under ROOT. Editing or asking again adds a sibling; nothing is overwritten.

export const ROOT = "root";
const VERSION = 1;
const MOST_NODES = 100_000;
const SAMPLING = [
  "temperature", "top_p", "min_p", "top_k", "max_tokens", "seed", "presence_penalty", "frequency_penalty", "repetition_penalty",
];

/** A random id. (crypto.randomUUID is missing on plain http to other machines.) */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * A node is {id, parent, role, content, created} and, for answers, {model, finish, error, usage, timing}:
 * finish is "" while it is being written, else stop, length, stopped, interrupted or error.
 */
export class Conversation {
  constructor({ id = newId(), title = "", created = Date.now(), updated = created, system = "", sampling = {} } = {}) {
    Object.assign(this, { id, title, created, updated, system, sampling });
    this.nodes = new Map();
    this.kids = new Map();
    this.chosen = new Map();
    this.dropped = new Set();
  }

  /** A new message below `parent`, which becomes the one that is shown. */
  add(parent, role, content, more = {}) {
    const node = { id: newId(), parent, role, content, created: Date.now(), ...more };
    this.insert(node);
    this.choose(node.id);
    this.updated = node.created;
    return node;
  }

  insert(node) {
    this.nodes.set(node.id, node);
    const siblings = this.kids.get(node.parent) ?? [];
    siblings.push(node.id);
    this.kids.set(node.parent, siblings);
  }

  /** Take out a message that has no answers below it. */
  drop(id) {
    const { parent } = this.nodes.get(id);
    this.nodes.delete(id);
    this.dropped.add(id);
    this.kids.set(parent, this.kids.get(parent).filter((other) => other !== id));
    if (this.chosen.get(parent) === id) this.chosen.delete(parent);
  }

  siblings(id) {
    return this.kids.get(this.nodes.get(id).parent);
  }

  choose(id) {
    this.chosen.set(this.nodes.get(id).parent, id);
  }

  /** The messages that are shown, from the first to the last: at each fork the chosen one, else the newest. */
  path() {
    const path = [];
    let kids = this.kids.get(ROOT);
    while (kids?.length) {
      const chosen = this.chosen.get(this.nodes.get(kids[0]).parent);
      const node = this.nodes.get(chosen && this.nodes.has(chosen) ? chosen : kids.at(-1));
      path.push(node);
      kids = this.kids.get(node.id);
    }
    return path;
  }

  /** The messages from the first down to `id`, which is the last. */
  pathTo(id) {
    const path = [];
    for (let node = this.nodes.get(id); node; node = this.nodes.get(node.parent)) path.unshift(node);
    return path;
  }

  /** What is sent to the model: the system prompt and the messages down to `id`; answers that failed are left out. */
  messages(id) {
    const turns = id === ROOT ? [] : this.pathTo(id).filter((node) => node.content !== "");
    const system = this.system.trim() ? [{ role: "system", content: this.system.toWellFormed() }] : [];
    return [...system, ...turns.map(({ role, content }) => ({ role, content: content.toWellFormed() }))];
  }

  /** Whether the title or any message has `text` (lower case) in it. */
  has(text) {
    if (this.title.toLowerCase().includes(text)) return true;
    return [...this.nodes.values()].some((node) => node.content.toLowerCase().includes(text));
  }

  /** Add the messages that `other`, the same conversation from another tab, has more. */
  merge(other) {
    for (const node of other.nodes.values()) {
      const known = this.nodes.has(node.id) || this.dropped.has(node.id);
      if (!known && (node.parent === ROOT || this.nodes.has(node.parent))) this.insert(node);
    }
  }

  toJSON() {
    const { id, title, created, updated, system, sampling } = this;
    return {
      version: VERSION, id, title, created, updated, system, sampling,
      nodes: [...this.nodes.values()].map((node) => ({ ...node })), chosen: [...this.chosen],
    };
  }

  /** The conversation that `toJSON` wrote. Throws an Error that says what is wrong with any other value. */
  static fromJSON(value) {
    if (value?.version !== VERSION || !isId(value.id)) throw new Error("not a conversation of this page");
    const conversation = new Conversation({
      id: value.id, title: text(value.title, "title").slice(0, 500), created: time(value.created), updated: time(value.updated),
      system: text(value.system, "system"), sampling: cleanSampling(value.sampling),
    });
    if (!Array.isArray(value.nodes) || value.nodes.length > MOST_NODES) throw new Error("nodes: expected a list");
    for (const node of value.nodes) conversation.insert(cleanNode(node, conversation.nodes));
    for (const pair of Array.isArray(value.chosen) ? value.chosen : []) {
      if (conversation.nodes.get(pair?.[1])?.parent === pair?.[0]) conversation.chosen.set(pair[0], pair[1]);
    }
    return conversation;
  }
}

function isId(value) {
  return typeof value === "string" && /^[\w-]{1,64}$/.test(value) && value !== ROOT;
}

function text(value, name) {
  if (typeof value !== "string") throw new Error(`${name}: expected a text`);
  return value;
}

function time(value) {
  return Number.isFinite(value) && Math.abs(value) < 8e15 ? value : Date.now();
}

/** A node with the fields we know; its parent must have come before it, so there are no circles. */
function cleanNode(node, earlier) {
  if (!isId(node?.id) || earlier.has(node.id)) throw new Error("nodes: an id is missing or there twice");
  if (node.parent !== ROOT && !earlier.has(node.parent)) throw new Error(`nodes: the parent of ${node.id} is missing`);
  if (node.role !== "user" && node.role !== "assistant") throw new Error(`nodes: ${node.id} has no role`);
  const clean = { id: node.id, parent: node.parent, role: node.role, content: text(node.content, "content"), created: time(node.created) };
  if (node.role === "user") return clean;
  const finish = ["stop", "length", "stopped", "interrupted", "error"].includes(node.finish) ? node.finish : "interrupted";
  const model = typeof node.model === "string" ? node.model.slice(0, 200) : "";
  return { ...clean, finish, model, ...cleanDetails(node) };
}

function cleanDetails({ error, usage, timing }) {
  const details = {};
  if (error) details.error = { kind: String(error.kind), message: String(error.message ?? "") };
  if (usage) details.usage = numbers(usage, ["prompt", "completion"]);
  if (timing) details.timing = numbers(timing, ["first", "rate"]);
  return details;
}

function numbers(values, names) {
  return Object.fromEntries(names.filter((name) => Number.isFinite(values?.[name])).map((name) => [name, values[name]]));
}

/** The sampling parameters that are numbers; those left out are the server's. */
export function cleanSampling(values) {
  return numbers(values, SAMPLING);
}
