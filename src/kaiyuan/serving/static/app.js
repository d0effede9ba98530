// The page: one conversation open, at most one answer under way.

import { Answer } from "./answer.js";
import { countTokens, servedModel, setKey } from "./api.js";
import { announce, byId, el, icon, iconButton } from "./dom.js";
import { number, t, translatePage } from "./i18n.js";
import { download, fillList, fillSettings, fillSidebar, readFile } from "./panels.js";
import { openStore } from "./store.js";
import { Message, welcome } from "./thread.js";
import { Conversation, ROOT } from "./tree.js";

class Page {
  constructor(store, conversations) {
    Object.assign(this, { store, conversations, model: null, answering: null, messages: new Map(), following: true });
    this.conversation = new Conversation();
    this.draft = byId("draft");
    this.wire();
    this.translate();
    this.connect();
  }

  wire() {
    byId("new-chat").addEventListener("click", () => this.open(new Conversation()));
    byId("search").addEventListener("input", () => fillList(this));
    byId("scrim").addEventListener("click", () => this.drawer(false));
    byId("to-end").addEventListener("click", () => this.follow(true));
    byId("scroller").addEventListener("scroll", () => {
      const { scrollTop, scrollHeight, clientHeight } = byId("scroller");
      this.following = scrollHeight - scrollTop - clientHeight < 60;
      byId("to-end").hidden = this.following;
    });
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.answering) this.answering.stop();
      else if (this.draft.value.trim()) this.ask(this.draft.value, this.last());
    });
    // An input method confirms its choice with Enter too: that one must not send.
    this.draft.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
      event.preventDefault();
      if (!this.answering) byId("composer").requestSubmit();
    });
    this.draft.addEventListener("input", () => this.typed());
  }

  translate() {
    translatePage();
    byId("bar-left").replaceChildren(iconButton("menu", t("menu"), () => this.drawer(!document.body.classList.contains("drawer")), { class: "menu" }));
    byId("bar-right").replaceChildren(iconButton("sliders", t("settings"), () => document.body.classList.toggle("tuning")));
    byId("to-end").replaceChildren(icon("down"));
    byId("to-end").setAttribute("aria-label", t("toEnd"));
    fillSidebar(this);
    this.render();
  }

  async connect() {
    try {
      this.model = await servedModel();
      byId("model").textContent = this.model.id;
      byId("banner").hidden = true;
      this.meter();
    } catch (error) {
      if (error.kind === "locked") return this.askKey();
      const retry = el("button", { class: "button", type: "button", text: t("tryNow"), onclick: () => this.connect() });
      byId("banner").replaceChildren(t(error.kind ?? "offline", { message: error.message }), retry);
      byId("banner").hidden = false;
    }
    return undefined;
  }

  askKey() {
    const dialog = byId("key-dialog"), field = el("input", { type: "password", class: "field", "aria-label": t("keyField"), required: true, autocomplete: "off" });
    const form = el("form", { method: "dialog", onsubmit: () => { setKey(field.value.trim()); this.connect(); } },
      el("h2", { id: "key-title", text: t("keyTitle") }), el("p", { text: t("keyText") }), field,
      el("button", { class: "button main-button", text: t("keyUse") }));
    dialog.replaceChildren(form);
    if (!dialog.open) dialog.showModal();
  }

  drawer(open) {
    document.body.classList.toggle("drawer", open);
    byId("scrim").hidden = !open;
  }

  open(conversation) {
    this.answering?.stop();
    this.conversation = conversation;
    this.drawer(false);
    this.render();
    this.draft.focus();
  }

  last() {
    return this.conversation.path().at(-1)?.id ?? ROOT;
  }

  render() {
    const { conversation } = this, nodes = conversation.path();
    this.messages = new Map(nodes.map((node) => [node.id, new Message(conversation, node, this)]));
    byId("log").replaceChildren(...[...this.messages.values()].map((one) => one.element), ...(nodes.length ? [] : [welcome((text) => this.ask(text, ROOT))]));
    byId("title").textContent = conversation.title || t("untitled");
    fillList(this);
    fillSettings(this);
    this.follow(true);
    this.state();
  }

  state() {
    const busy = Boolean(this.answering);
    byId("send").replaceChildren(icon(busy ? "stop" : "send"));
    byId("send").setAttribute("aria-label", t(busy ? "stop" : "send"));
    byId("send").disabled = !busy && !this.draft.value.trim();
    this.draft.rows = Math.min(10, this.draft.value.split("\n").length);
    this.meter();
  }

  meter() {
    const usage = this.conversation.path().findLast((node) => node.usage)?.usage, most = this.model?.context ?? 0;
    const used = usage ? usage.prompt + usage.completion : 0;
    byId("used").textContent = most ? t("contextOf", { used: number(used), most: number(most) }) : "";
  }

  follow(now = this.following) {
    if (now) byId("scroller").scrollTop = byId("scroller").scrollHeight;
  }

  /** What is typed or pasted, counted a moment after. */
  typed() {
    this.state();
    clearTimeout(this.timer);
    this.timer = setTimeout(async () => {
      const text = this.draft.value;
      try {
        const { count } = text ? await countTokens({ text: text.toWellFormed() }) : { count: 0 };
        if (text === this.draft.value) byId("typed").textContent = count ? t("tokens", { count: number(count) }) : "";
      } catch {
        byId("typed").textContent = "";
      }
    }, 300);
  }

  ask(text, parent) {
    if (this.answering) return;
    const { conversation } = this;
    if (!this.conversations.includes(conversation)) this.conversations.push(conversation);
    conversation.title ||= text.trim().split("\n")[0].slice(0, 60);
    const node = conversation.add(parent, "user", text.trim());
    this.draft.value = "";
    byId("typed").textContent = "";
    this.answer(node.id);
  }

  answer(parent) {
    if (this.answering) return;
    const { conversation } = this, node = conversation.add(parent, "assistant", "", { finish: "" });
    const frame = () => {
      this.frame = 0;
      this.messages.get(node.id)?.show();
      this.follow();
    };
    this.answering = new Answer(conversation, node, {
      onChange: () => { this.frame ||= requestAnimationFrame(frame); },
      onEnd: () => {
        this.answering = null;
        this.messages.get(node.id)?.show();
        if (node.error?.kind === "locked") this.askKey();
        announce(t(node.finish === "stopped" ? "answerStopped" : "answered"));
        this.save(conversation);
        this.state();
        this.follow();
      },
    });
    this.render();
    this.save(conversation);
    announce(t("answering"));
    this.answering.run(this.model?.id);
  }

  choose(id) {
    if (this.answering) return;
    this.conversation.choose(id);
    this.save();
    this.render();
  }

  async save(conversation = this.conversation) {
    try {
      if (conversation.nodes.size) await this.store.save(conversation);
    } catch (error) {
      this.toast(t("notSaved", { reason: error.message }));
    }
  }

  rename(conversation, title) {
    conversation.title = title.trim().slice(0, 200);
    this.save(conversation);
    this.render();
  }

  async remove(conversation) {
    this.conversations = this.conversations.filter((one) => one !== conversation);
    await this.store.remove(conversation.id);
    if (conversation === this.conversation) this.open(new Conversation());
    else fillList(this);
    this.toast(t("removed", { title: conversation.title }), t("undo"), () => {
      this.conversations.push(conversation);
      this.save(conversation);
      fillList(this);
    });
  }

  exportAll() {
    download(this.conversations);
  }

  async importFile(input) {
    const file = input.files[0];
    if (!file) return;
    try {
      const known = new Set(this.conversations.map((one) => one.id)), found = (await readFile(file)).filter((one) => !known.has(one.id));
      this.conversations.push(...found);
      await Promise.all(found.map((one) => this.store.save(one)));
      this.toast(t("imported", { count: found.length }));
      fillList(this);
    } catch (error) {
      this.toast(t("importFailed", { file: file.name, reason: error.message }));
    }
  }

  toast(text, action, onAction) {
    const toast = byId("toast");
    toast.replaceChildren(text, ...(action ? [el("button", { class: "button", type: "button", text: action, onclick: () => { toast.hidden = true; onAction(); } })] : []));
    toast.hidden = false;
    clearTimeout(this.toastTimer);
    this.toastTimer = setTimeout(() => { toast.hidden = true; }, 6000);
  }
}

const store = await openStore();
new Page(store, await store.all());
