// The messages that are shown: Markdown, numbers, and what can be done with each.

import { copyButton, el, iconButton } from "./dom.js";
import { number, seconds, t } from "./i18n.js";
import { Prose } from "./prose.js";

/** The element of one message. `page` does what its buttons ask for. */
export class Message {
  constructor(conversation, node, page) {
    Object.assign(this, { conversation, node, page });
    this.body = el("div", { class: "body" });
    this.foot = el("div", { class: "foot" });
    this.element = el("article", { class: `turn ${node.role}`, "aria-label": t(node.role === "user" ? "you" : "model") }, this.body, this.foot);
    this.prose = node.role === "assistant" ? new Prose(this.body) : null;
    this.show();
  }

  show() {
    const { node } = this;
    const open = node.finish === "";
    if (this.prose) this.prose.update(node.content, open);
    else this.body.textContent = node.content;
    this.element.classList.toggle("live", open);
    this.foot.replaceChildren(...this.tools(), ...this.notes());
  }

  tools() {
    const { conversation, node, page } = this;
    if (node.finish === "") return [];
    const siblings = conversation.siblings(node.id), place = siblings.indexOf(node.id), tools = [];
    if (siblings.length > 1) {
      const go = (step) => () => page.choose(siblings[place + step]);
      tools.push(
        iconButton("left", t("previous"), go(-1), { disabled: place === 0 }),
        el("span", { text: `${place + 1}/${siblings.length}`, "aria-label": t("versions", { index: place + 1, count: siblings.length }) }),
        iconButton("right", t("next"), go(1), { disabled: place === siblings.length - 1 }),
      );
    }
    tools.push(copyButton(t("copy"), t("copied"), () => node.content));
    if (node.role === "user") tools.push(iconButton("edit", t("edit"), () => this.edit()));
    else tools.push(iconButton("again", t("regenerate"), () => page.answer(node.parent)));
    return tools;
  }

  notes() {
    const { finish, error, usage, timing } = this.node, notes = [];
    if (finish === "") return this.node.content ? [] : [el("span", { class: "note", text: t("waiting") })];
    if (timing?.rate) notes.push(t("rate", { rate: number(timing.rate, 1) }));
    if (timing?.first) notes.push(t("first", { seconds: seconds(timing.first) }));
    if (usage?.completion) notes.push(t("tokens", { count: number(usage.completion) }));
    const found = notes.length ? [el("span", { class: "note", text: notes.join(" · ") })] : [];
    const why = { stopped: t("stopped"), length: t("lengthReached"), interrupted: t("interrupted") }[finish];
    if (why) found.push(el("span", { class: "note", text: why }));
    if (error) found.push(el("span", { class: "failure", role: "alert", text: t(error.kind, { message: error.message }) }));
    return found;
  }

  edit() {
    const area = el("textarea", { "aria-label": t("editLabel") });
    area.value = this.node.content;
    const send = () => area.value.trim() && this.page.ask(area.value, this.node.parent);
    this.body.replaceChildren(area);
    this.foot.replaceChildren(
      el("button", { class: "button main-button", type: "button", onclick: send, text: t("saveAndSend") }),
      el("button", { class: "button", type: "button", onclick: () => this.show(), text: t("cancel") }),
    );
    area.focus();
  }
}

/** What an empty conversation shows. */
export function welcome(ask) {
  const examples = t("examples").split("|").map((text) => el("button", { class: "button", type: "button", text, onclick: () => ask(text) }));
  return el("div", { class: "welcome" }, el("h2", { text: t("welcome") }), el("div", { class: "examples" }, ...examples));
}
