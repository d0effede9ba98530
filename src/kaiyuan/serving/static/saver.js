// When conversations are saved: at once, or within a second while an answer streams.

import { t } from "./i18n.js";
import { toast } from "./notices.js";

export class Saver {
  /** `wanted(id)` says whether a conversation is still kept when its turn comes. */
  constructor(store, wanted) {
    Object.assign(this, { store, wanted });
    this.waiting = new Map();
    addEventListener("pagehide", () => this.saveAll());
    document.addEventListener("visibilitychange", () => document.hidden && this.saveAll());
  }

  isWaiting(id) {
    return this.waiting.has(id);
  }

  /** Save after `delay` milliseconds at the latest. */
  save(conversation, delay = 0) {
    if (this.waiting.has(conversation.id) && delay) return;
    this.forget(conversation.id);
    const timer = setTimeout(() => this.saveNow(conversation), delay);
    this.waiting.set(conversation.id, { timer, conversation });
  }

  remove(id) {
    this.forget(id);
    this.store.remove(id).catch(failed);
  }

  forget(id) {
    clearTimeout(this.waiting.get(id)?.timer);
    this.waiting.delete(id);
  }

  async saveNow(conversation) {
    this.forget(conversation.id);
    if (!this.wanted(conversation.id)) return;
    await this.store.save(conversation).catch(failed);
  }

  saveAll() {
    for (const { conversation } of [...this.waiting.values()]) this.saveNow(conversation);
  }
}

function failed(error) {
  toast(t("notSaved", { reason: error?.message ?? String(error) }));
}
