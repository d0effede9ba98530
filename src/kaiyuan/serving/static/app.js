// The page: what is open, what is being answered, and who is told.

import { Answer } from "./answer.js";
import { hasKey } from "./api.js";
import { Composer } from "./composer.js";
import { Connection } from "./connection.js";
import { announce, byId, iconButton } from "./dom.js";
import { t, toggleLanguage, translatePage } from "./i18n.js";
import { askForKey, toast } from "./notices.js";
import { preference, setPreference } from "./preferences.js";
import { Panels } from "./panels.js";
import { Saver } from "./saver.js";
import { Settings, defaultsForNew } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import { openStore } from "./store.js";
import { Conversation, ROOT } from "./tree.js";
import { View } from "./view.js";

const SAVE_EVERY = 1000;

class App {
  constructor(store, conversations) {
    this.saver = new Saver(store, (id) => this.conversations.has(id));
    this.conversations = new Map(conversations.map((one) => [one.id, one]));
    this.running = new Map();
    this.connection = new Connection(() => this.modelChanged());
    this.current = this.fromAddress() ?? new Conversation(defaultsForNew());
    this.panels = new Panels();
    this.view = new View(this);
    this.composer = new Composer(this);
    this.settings = new Settings(this);
    this.sidebar = new Sidebar(this);
  }

  start() {
    byId("new-chat").addEventListener("click", () => this.open(new Conversation(defaultsForNew())));
    addEventListener("hashchange", () => this.followAddress());
    this.saver.store.onElsewhere((id) => this.changedElsewhere(id));
    this.showAll();
    if (!this.saver.store.lasting) toast(t("notKept"));
    this.connection.connect();
  }

  get model() {
    return this.connection.model;
  }

  modelChanged() {
    this.showTitle();
    this.view.showModel();
    this.composer.showUse();
  }

  /** Everything anew, as after a change of language. */
  showAll() {
    translatePage();
    this.showBar();
    this.sidebar.show();
    this.settings.show();
    this.view.show(this.current);
    this.composer.show(this.current);
  }

  showBar() {
    const themes = { auto: "themeAuto", light: "themeLight", dark: "themeDark" };
    const theme = preference("theme") ?? "auto";
    const icons = { auto: "auto", light: "sun", dark: "moon" };
    const menu = iconButton("menu", t("menu"), () => this.panels.toggle("sidebar"), { id: "menu", "aria-controls": "sidebar" });
    const look = iconButton(icons[theme] ?? "auto", t(themes[theme] ?? "themeAuto"), () => this.nextTheme(theme), { id: "theme" });
    const settings = iconButton("sliders", t("settings"), () => this.panels.toggle("settings"), {
      id: "open-settings", "aria-controls": "settings",
    });
    byId("bar-left").replaceChildren(menu);
    byId("bar-right").replaceChildren(look, settings);
    this.panels.update();
    this.showTitle();
  }

  showTitle() {
    const title = this.current.title || t("untitled");
    byId("title").textContent = title;
    byId("model").textContent = this.model.id;
    document.title = this.current.title ? `${title} · kaiyuan 开元` : "kaiyuan 开元";
  }

  nextTheme(theme) {
    const next = { auto: "light", light: "dark", dark: "auto" }[theme] ?? "auto";
    setPreference("theme", next === "auto" ? null : next);
    if (next === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    this.showBar();
    byId("theme").focus();
  }

  changeLanguage() {
    toggleLanguage();
    this.showAll();
  }

  fromAddress() {
    return this.conversations.get(location.hash.replace(/^#c=/, ""));
  }

  followAddress() {
    const conversation = this.fromAddress();
    if (conversation && conversation !== this.current) this.open(conversation);
  }

  open(conversation) {
    this.current = conversation;
    const address = this.conversations.has(conversation.id) ? `#c=${conversation.id}` : location.pathname;
    if (location.hash !== address) history.pushState(null, "", address);
    this.panels.close();
    this.showTitle();
    this.sidebar.show();
    this.settings.show();
    this.view.show(conversation);
    this.composer.show(conversation);
    this.composer.focus();
  }

  /** Put `conversation` among those that are kept. */
  keep(conversation) {
    if (!this.conversations.has(conversation.id)) {
      this.conversations.set(conversation.id, conversation);
      if (conversation === this.current) history.replaceState(null, "", `#c=${conversation.id}`);
    }
    this.saver.save(conversation);
    this.sidebar.show();
  }

  rename(conversation, title) {
    conversation.title = title.trim() || conversation.title;
    this.saver.save(conversation);
    this.sidebar.show();
    this.showTitle();
  }

  /** Delete, with a moment to undo it. */
  remove(conversations) {
    for (const one of conversations) {
      this.running.get(one.id)?.stop();
      this.conversations.delete(one.id);
      this.saver.remove(one.id);
    }
    const message = conversations.length === 1 ? t("removed", { title: conversations[0].title }) : t("removedAll");
    toast(message, t("undo"), () => conversations.forEach((one) => this.keep(one)));
    if (conversations.includes(this.current)) this.open(new Conversation(defaultsForNew()));
    else this.sidebar.show();
  }

  async changedElsewhere(id) {
    if (this.running.has(id) || this.saver.isWaiting(id)) return;
    const stored = await this.saver.store.get(id);
    if (stored) this.conversations.set(id, stored);
    else if (id !== this.current.id) this.conversations.delete(id);
    if (stored && id === this.current.id) {
      this.current = stored;
      this.view.show(stored);
      this.composer.showUse();
      this.showTitle();
    }
    this.sidebar.show();
  }

  /** Ask `content` below the message `parent` of the open conversation. */
  ask(content, parent) {
    const conversation = this.current;
    conversation.title ||= content.trim().split("\n")[0].slice(0, 80);
    const question = conversation.add(parent, "user", content);
    this.answer(question.id);
    this.showTitle();
  }

  /** A new answer to the message `parent`; one before it that failed without a word makes room. */
  answer(parent) {
    const conversation = this.current;
    if (this.running.has(conversation.id)) return;
    for (const id of [...(conversation.kids.get(parent) ?? [])]) {
      const node = conversation.nodes.get(id);
      if (node.finish === "error" && !node.content && !conversation.kids.get(id)?.length) conversation.drop(id);
    }
    const node = conversation.add(parent, "assistant", "", { finish: "", model: this.model.id });
    const answer = new Answer(conversation, node, {
      onChange: () => this.answerChanged(answer), onEnd: () => this.answerEnded(answer),
    });
    this.running.set(conversation.id, answer);
    this.keep(conversation);
    this.view.show(conversation, { follow: true });
    this.composer.showState();
    announce(t("answering"));
    answer.run(this.model.id);
  }

  answerChanged(answer) {
    if (answer.conversation === this.current) this.view.grown(answer);
    if (this.conversations.has(answer.conversation.id)) this.saver.save(answer.conversation, SAVE_EVERY);
  }

  answerEnded(answer) {
    const { conversation, node } = answer;
    this.running.delete(conversation.id);
    conversation.updated = Date.now();
    if (this.conversations.has(conversation.id)) this.keep(conversation);
    if (conversation === this.current) {
      this.view.ended(answer);
      this.composer.showState();
      this.composer.showUse();
    }
    announce(t(node.finish === "stopped" ? "answerStopped" : node.finish === "error" ? node.error.kind : "answered", node.error));
    if (node.finish === "error") this.answerFailed(conversation, node);
  }

  answerFailed(conversation, node) {
    if (node.error.kind === "offline") this.connection.retryLater();
    if (node.error.kind === "refused") this.connection.connect();
    if (node.error.kind !== "locked") return;
    askForKey(hasKey(), () => {
      this.connection.connect();
      if (conversation === this.current) this.answer(node.parent);
    });
  }

  stop() {
    this.running.get(this.current.id)?.stop();
  }

  regenerate(node) {
    this.answer(node.parent);
  }

  /** Another branch: shown, and remembered. */
  choose(id) {
    this.current.choose(id);
    this.saver.save(this.current);
    this.view.show(this.current);
    this.composer.showUse();
  }

  /** The last message that is shown: what is sent next goes below it. */
  get tip() {
    return this.current.path().at(-1)?.id ?? ROOT;
  }
}

const store = await openStore();
new App(store, await store.all()).start();
