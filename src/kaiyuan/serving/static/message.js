// One message: its text, what went wrong, and below it the buttons, the way to other branches, and the numbers.

import { editor, grow } from "./composer.js";
import { copyButton, el, iconButton } from "./dom.js";
import { number, seconds, t } from "./i18n.js";
import { Prose } from "./prose.js";

const LONG_TEXT = 1600;
const MANY_LINES = 18;

export class MessageView {
  constructor(app, conversation, node) {
    Object.assign(this, { app, conversation, node });
    const mine = node.role === "user";
    this.body = el("div", { class: mine ? "said" : "prose", dir: "auto" });
    this.note = el("div", { class: "note" });
    this.foot = el("div", { class: "foot" });
    this.element = el("article", { class: `message ${node.role}`, data: { id: node.id }, "aria-label": mine ? t("you") : t("model") });
    this.element.append(this.body, this.note, this.foot);
    if (mine) this.showQuestion();
    else this.showAnswer(app.running.get(conversation.id));
  }

  get answer() {
    const answer = this.app.running.get(this.conversation.id);
    return answer?.node === this.node ? answer : null;
  }

  showQuestion() {
    const { content } = this.node;
    const text = el("div", { class: "said-text", text: content });
    this.body.replaceChildren(text);
    if (content.length < LONG_TEXT && content.split("\n").length < MANY_LINES) return;
    text.classList.add("folded");
    const toggle = el("button", { type: "button", class: "link", "aria-expanded": "false", text: t("showAll") });
    toggle.addEventListener("click", () => {
      const folded = text.classList.toggle("folded");
      toggle.textContent = t(folded ? "showAll" : "showLess");
      toggle.setAttribute("aria-expanded", String(!folded));
    });
    this.body.append(toggle);
  }

  showAnswer() {
    const { node, answer } = this;
    this.prose ??= new Prose(this.body);
    this.prose.update(node.content, answer !== null);
    this.element.classList.toggle("writing", answer !== null);
    this.element.setAttribute("aria-busy", String(answer !== null));
    this.showNote();
    if (answer) this.showRate(answer);
    else this.showFoot();
  }

  /** Why the answer ended, unless it simply did. */
  showNote() {
    const { node, answer } = this;
    const retry = () => el("button", { type: "button", class: "link", text: t("retry"), onclick: () => this.app.regenerate(node) });
    const note = (text, ...more) => this.note.replaceChildren(el("span", { text }), ...more);
    this.note.className = "note";
    this.note.removeAttribute("role");
    if (answer) this.note.replaceChildren(...(node.content ? [] : [waiting()]));
    else if (node.finish === "error") {
      this.note.className = "note error";
      this.note.setAttribute("role", "alert");
      note(t(node.error?.kind ?? "broken", { message: node.error?.message ?? "" }), retry());
    } else if (node.finish === "stopped") note(t("stopped"));
    else if (node.finish === "length") note(t("lengthReached"));
    else if (node.finish === "interrupted") note(t("interrupted"), retry());
    else this.note.replaceChildren();
  }

  showRate(answer) {
    const rate = answer.rate();
    if (!this.rate?.isConnected) this.foot.replaceChildren((this.rate = el("span", { class: "numbers" })));
    this.rate.textContent = rate ? t("rate", { rate: number(rate, rate < 100 ? 1 : 0) }) : "";
  }

  showFoot() {
    if (this.answer) return;
    const { node, app } = this;
    const busy = app.running.has(this.conversation.id);
    const copy = node.content ? [copyButton(t("copy"), t("copied"), () => node.content)] : [];
    const buttons = node.role === "user" ? this.questionButtons(busy) : this.answerButtons(busy);
    this.foot.replaceChildren(...this.branches(busy), ...copy, ...buttons, ...this.numbers());
  }

  questionButtons(busy) {
    if (busy) return [];
    const edit = iconButton("edit", t("edit"), () => this.edit());
    const unanswered = !this.conversation.kids.get(this.node.id)?.length;
    return unanswered ? [edit, iconButton("again", t("answer"), () => this.app.answer(this.node.id))] : [edit];
  }

  answerButtons(busy) {
    return busy ? [] : [iconButton("again", t("regenerate"), () => this.app.regenerate(this.node))];
  }

  /** ‹ 2/3 › where there is more than one version. */
  branches(busy) {
    const siblings = this.conversation.siblings(this.node.id);
    if (siblings.length < 2) return [];
    const index = siblings.indexOf(this.node.id);
    const go = (step) => () => {
      const { parent } = this.node;
      this.app.choose(siblings[index + step]);
      focusBranch(parent, this.conversation, step);
    };
    const arrow = (name, label, step) => {
      const disabled = busy || siblings[index + step] === undefined;
      return iconButton(name, t(label), go(step), { disabled, class: `branch-${name}` });
    };
    const words = t("versions", { index: index + 1, count: siblings.length });
    const place = el("span", { class: "place", text: `${index + 1}/${siblings.length}`, title: words });
    const inner = [arrow("left", "previous", -1), place, arrow("right", "next", 1)];
    return [el("span", { class: "branches", role: "group", "aria-label": words }, ...inner)];
  }

  numbers() {
    const { timing, usage } = this.node;
    const parts = [];
    if (timing?.rate) parts.push(t("rate", { rate: number(timing.rate, timing.rate < 100 ? 1 : 0) }));
    if (usage?.completion) parts.push(usage.completion === 1 ? t("oneToken") : t("tokens", { count: number(usage.completion) }));
    if (timing?.first) parts.push(t("first", { seconds: seconds(timing.first) }));
    return parts.length ? [el("span", { class: "numbers", text: parts.join(" · ") })] : [];
  }

  edit() {
    const { node, app } = this;
    const { element, area } = editor(node.content, (text) => app.ask(text, node.parent), () => this.endEdit());
    this.element.classList.add("editing");
    this.body.replaceChildren(element);
    this.foot.replaceChildren();
    grow(area);
    area.focus();
  }

  endEdit() {
    this.element.classList.remove("editing");
    this.showQuestion();
    this.showFoot();
    this.foot.querySelector("button")?.focus();
  }
}

function waiting() {
  return el("span", { class: "waiting", role: "img", "aria-label": t("waiting") }, el("i"), el("i"), el("i"));
}

/** The arrow that was pressed is gone with its message: focus its successor's. */
function focusBranch(parent, conversation, step) {
  const shown = conversation.path().find((node) => node.parent === parent);
  const foot = document.querySelector(`[data-id="${CSS.escape(shown.id)}"] .branches`);
  const wanted = foot?.querySelector(step < 0 ? ".branch-left" : ".branch-right");
  (wanted?.disabled ? foot.querySelector("button:enabled") : wanted)?.focus();
}
