// The conversation that is open: one element for each message on the path that is shown.

import { byId, el, icon } from "./dom.js";
import { number, t } from "./i18n.js";
import { MessageView } from "./message.js";
import { Follower } from "./scroll.js";

export class View {
  constructor(app) {
    this.app = app;
    this.messages = [];
    this.frame = 0;
    const button = byId("to-end");
    this.follower = new Follower(byId("scroller"), (following) => (button.hidden = following));
    button.addEventListener("click", () => this.follower.toEnd());
  }

  /** Show `conversation`; messages that stay where they are keep their elements. */
  show(conversation, { follow = false } = {}) {
    const path = conversation.path();
    const other = this.conversation !== conversation || this.words !== t("you");
    let same = 0;
    while (!other && same < path.length && this.messages[same]?.node === path[same]) same += 1;
    for (const message of this.messages.splice(same)) message.element.remove();
    if (other) byId("log").replaceChildren();
    Object.assign(this, { conversation, words: t("you") });
    for (const node of path.slice(same)) this.append(node);
    this.messages.forEach((message) => message.showFoot());
    this.showWelcome(path.length === 0);
    this.showButton();
    if (other || follow) this.follower.toEnd();
    else this.follower.keepUp();
  }

  append(node) {
    const message = new MessageView(this.app, this.conversation, node);
    this.messages.push(message);
    byId("log").append(message.element);
  }

  showButton() {
    const button = byId("to-end");
    button.replaceChildren(icon("down"));
    button.title = t("toEnd");
    button.setAttribute("aria-label", t("toEnd"));
  }

  /** What there is before the first message. */
  showWelcome(empty) {
    byId("welcome")?.remove();
    document.body.classList.toggle("empty", empty);
    if (!empty) return;
    const examples = t("examples").split("|").map((text) => {
      const use = () => {
        this.app.composer.put(text);
        this.app.composer.focus();
      };
      return el("button", { type: "button", class: "example", text, onclick: use });
    });
    const name = el("p", { class: "seal", lang: "zh", "aria-hidden": "true", text: "开元" });
    const model = el("p", { class: "welcome-model", id: "welcome-model" });
    const lines = [name, el("p", { class: "motto", text: t("welcome") }), model, el("div", { class: "examples" }, ...examples)];
    byId("log").append(el("section", { id: "welcome", class: "welcome" }, ...lines));
    this.showModel();
  }

  showModel() {
    const line = byId("welcome-model");
    const { id, context } = this.app.model;
    if (line) line.textContent = [id, context ? t("windowOf", { most: number(context) }) : ""].filter(Boolean).join(" · ");
  }

  /** An answer has grown: show it with the next frame. */
  grown(answer) {
    this.answer = answer;
    this.frame ||= requestAnimationFrame(() => this.draw());
  }

  draw() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    const message = this.messages.find(({ node }) => node === this.answer?.node);
    if (!message) return;
    message.showAnswer(this.answer);
    this.follower.keepUp();
  }

  ended(answer) {
    this.answer = answer;
    this.draw();
    this.messages.forEach((message) => message.showFoot());
    this.follower.keepUp();
  }
}
