// Where messages are written: the field, the button that sends and stops, and how much of the context is used.

import { countTokens } from "./api.js";
import { byId, el, icon } from "./dom.js";
import { number, t } from "./i18n.js";
import { setTabValue, tabValue } from "./preferences.js";

const COUNT_AFTER = 300;
const TOUCH = matchMedia("(hover: none) and (pointer: coarse)");

/** Whether a key press is Enter that means "send": not one that picks a word in an input method, nor Shift+Enter. */
export function sends(event) {
  const composing = event.isComposing || event.keyCode === 229;
  return event.key === "Enter" && !event.shiftKey && !event.altKey && !composing && !TOUCH.matches;
}

/** Make a textarea as high as its text; CSS sets the limit. */
export function grow(area) {
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight + area.offsetHeight - area.clientHeight}px`;
}

export class Composer {
  constructor(app) {
    this.app = app;
    this.draft = byId("draft");
    this.used = 0;
    this.typed = 0;
    byId("composer").addEventListener("submit", (event) => this.submit(event));
    this.draft.addEventListener("input", () => this.changed());
    this.draft.addEventListener("keydown", (event) => {
      if (!sends(event)) return;
      event.preventDefault();
      if (!this.answering) this.send();
    });
  }

  get answering() {
    return this.app.running.has(this.app.current.id);
  }

  focus() {
    if (!TOUCH.matches) this.draft.focus();
  }

  /** The draft and the numbers of another conversation. */
  show(conversation) {
    this.draft.value = tabValue(`draft.${conversation.id}`) ?? "";
    this.changed();
    this.showUse();
  }

  changed() {
    grow(this.draft);
    setTabValue(`draft.${this.app.current.id}`, this.draft.value);
    clearTimeout(this.timer);
    this.counting?.abort();
    if (this.draft.value.trim()) this.timer = setTimeout(() => this.count(), COUNT_AFTER);
    else this.showTyped(0);
    this.showState();
  }

  submit(event) {
    event.preventDefault();
    if (this.answering) this.app.stop();
    else this.send();
  }

  send() {
    const text = this.draft.value.trim();
    if (!text) return;
    this.put("");
    this.app.ask(text, this.app.tip);
  }

  /** Set the draft. */
  put(text) {
    this.draft.value = text;
    this.changed();
  }

  showState() {
    const button = byId("send");
    const name = this.answering ? "stop" : "send";
    if (button.dataset.does !== name || button.title !== t(name)) {
      button.dataset.does = name;
      button.replaceChildren(icon(name));
      button.title = t(name);
      button.setAttribute("aria-label", t(name));
    }
    button.disabled = !this.answering && !this.draft.value.trim();
  }

  async count() {
    this.counting = new AbortController();
    const { signal } = this.counting;
    try {
      const { count } = await countTokens({ prompt: this.draft.value.toWellFormed() }, signal);
      if (!signal.aborted) this.showTyped(count);
    } catch {
      if (!signal.aborted) this.showTyped(0);
    }
  }

  showTyped(count) {
    this.typed = count;
    byId("typed").textContent = count ? t("draftTokens", { count: number(count) }) : "";
    this.showMeter();
  }

  /** How many tokens the conversation has: as its last answer says, else as the server counts. */
  async showUse() {
    const { current, model } = this.app;
    const path = current.path();
    const usage = path.findLast((node) => node.usage)?.usage;
    const known = path.length === 0 || path.at(-1).usage;
    this.used = (usage?.prompt ?? 0) + (usage?.completion ?? 0);
    this.showMeter();
    if (known || this.answering || !model.id) return;
    try {
      const { count } = await countTokens({ messages: current.messages(path.at(-1).id) }, AbortSignal.timeout(5000));
      if (this.app.current === current) this.used = count;
      this.showMeter();
    } catch {
      // The meter shows what is known.
    }
  }

  showMeter() {
    const most = this.app.model.context;
    const meter = byId("meter");
    meter.hidden = !most;
    byId("used").textContent = most ? t("contextOf", { used: number(this.used), most: number(most) }) : "";
    if (!most) return;
    const [used, typed] = meter.children;
    const share = Math.min(1, this.used / most);
    used.style.width = `${share * 100}%`;
    typed.style.width = `${Math.min(1 - share, this.typed / most) * 100}%`;
    meter.classList.toggle("full", this.used + this.typed > 0.9 * most);
    meter.setAttribute("aria-valuemax", String(most));
    meter.setAttribute("aria-valuenow", String(Math.min(most, this.used + this.typed)));
  }
}

/** A field to edit a message in its place. */
export function editor(text, onsend, oncancel) {
  const area = el("textarea", { class: "field", rows: "1", dir: "auto", "aria-label": t("editLabel") });
  area.value = text;
  const send = () => area.value.trim() && onsend(area.value.trim());
  area.addEventListener("input", () => grow(area));
  area.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !event.isComposing) oncancel();
    if (!sends(event)) return;
    event.preventDefault();
    send();
  });
  const buttons = el("div", { class: "row" }, el("span", { class: "grow" }),
    el("button", { type: "button", class: "button", text: t("cancel"), onclick: oncancel }),
    el("button", { type: "button", class: "button primary", text: t("saveAndSend"), onclick: send }));
  return { element: el("div", { class: "editor" }, area, buttons), area };
}
