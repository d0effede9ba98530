// Conversations in IndexedDB, one record each. Where that is forbidden they live as long as the page.

import { Conversation } from "./tree.js";

const DATABASE = "kaiyuan";
const TABLE = "conversations";

function settled(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function finished(transaction) {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = transaction.onerror = () => reject(transaction.error);
  });
}

/** The store; `lasting` is false where nothing can be kept. */
export async function openStore() {
  try {
    const request = indexedDB.open(DATABASE, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(TABLE, { keyPath: "id" });
    return new Store(await settled(request));
  } catch {
    return new Store(null);
  }
}

class Store {
  constructor(database) {
    this.database = database;
    this.lasting = database !== null;
    this.channel = "BroadcastChannel" in window ? new BroadcastChannel("kaiyuan") : null;
  }

  /** Call `action(id)` when another tab has changed a conversation. */
  onElsewhere(action) {
    if (this.channel) this.channel.onmessage = (event) => action(String(event.data));
  }

  /** All conversations. A record that cannot be read is passed over. */
  async all() {
    if (!this.database) return [];
    const records = await settled(this.table("readonly").getAll());
    return records.map(readable).filter(Boolean);
  }

  async get(id) {
    return this.database ? readable(await settled(this.table("readonly").get(id))) : null;
  }

  /** Save `conversation`; messages that another tab has added in the meantime are taken in. */
  async save(conversation) {
    if (!this.database) return;
    const table = this.table("readwrite");
    const stored = readable(await settled(table.get(conversation.id)));
    if (stored) conversation.merge(stored);
    table.put(conversation.toJSON());
    await finished(table.transaction);
    this.channel?.postMessage(conversation.id);
  }

  async remove(id) {
    if (!this.database) return;
    const table = this.table("readwrite");
    table.delete(id);
    await finished(table.transaction);
    this.channel?.postMessage(id);
  }

  table(mode) {
    return this.database.transaction(TABLE, mode).objectStore(TABLE);
  }
}

function readable(record) {
  try {
    return record ? Conversation.fromJSON(record) : null;
  } catch {
    return null;
  }
}
