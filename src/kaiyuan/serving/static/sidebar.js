// The list of conversations, by day, with search; below it language and files.

import { byId, el, icon, iconButton } from "./dom.js";
import { t } from "./i18n.js";

const DAY = 86_400_000;

export class Sidebar {
  constructor(app) {
    this.app = app;
    byId("search").addEventListener("input", () => this.showList());
  }

  show() {
    byId("new-chat").replaceChildren(icon("plus"), t("newChat"));
    const language = el("button", {
      type: "button", class: "link", id: "language", text: t("language"), "aria-label": t("languageLabel"),
      onclick: () => this.app.changeLanguage(),
    });
    if (!byId("language") || byId("language").textContent !== t("language")) byId("sidebar-foot").replaceChildren(language);
    this.showList();
  }

  showList() {
    const wanted = byId("search").value.trim().toLowerCase();
    const all = [...this.app.conversations.values()].sort((one, other) => other.updated - one.updated);
    const found = wanted ? all.filter((conversation) => conversation.has(wanted)) : all;
    const groups = new Map();
    for (const conversation of found) {
      const name = ageOf(conversation.updated);
      groups.set(name, [...(groups.get(name) ?? []), conversation]);
    }
    const nothing = el("p", { class: "quiet", text: t(wanted ? "noneFound" : "noneYet") });
    byId("conversations").replaceChildren(...(found.length ? [...groups].map(([name, group]) => this.group(name, group)) : [nothing]));
  }

  group(name, conversations) {
    const heading = el("h2", { id: `group-${name}`, text: t(name) });
    const list = el("ul", { "aria-labelledby": `group-${name}` }, ...conversations.map((conversation) => this.entry(conversation)));
    return el("section", {}, heading, list);
  }

  entry(conversation) {
    const { app } = this;
    const current = conversation === app.current;
    const title = conversation.title || t("untitled");
    const open = el("button", {
      type: "button", class: "entry", text: title, title, "aria-current": current ? "true" : null, onclick: () => app.open(conversation),
    });
    const item = el("li", { class: [current && "current", app.running.has(conversation.id) && "running"].filter(Boolean).join(" ") });
    const rename = iconButton("edit", `${t("rename")}: ${title}`, () => this.rename(item, conversation));
    const remove = iconButton("bin", `${t("remove")}: ${title}`, () => app.remove([conversation]));
    item.append(open, el("span", { class: "entry-buttons" }, rename, remove));
    return item;
  }

  /** The title becomes a field: Enter takes it, Escape leaves it. */
  rename(item, conversation) {
    const field = el("input", { class: "field", type: "text", maxlength: "200", "aria-label": t("rename") });
    let done = false;
    const finish = (take) => {
      if (done) return;
      done = true;
      if (take) this.app.rename(conversation, field.value);
      else this.showList();
    };
    field.value = conversation.title;
    field.addEventListener("keydown", (event) => {
      if (event.isComposing || event.keyCode === 229) return;
      if (event.key === "Enter") finish(true);
      if (event.key === "Escape") finish(false);
      event.stopPropagation();
    });
    field.addEventListener("blur", () => finish(true));
    item.replaceChildren(field);
    field.focus();
    field.select();
  }
}

function ageOf(time) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  if (time >= midnight) return "today";
  if (time >= midnight - DAY) return "yesterday";
  return time >= midnight - 6 * DAY ? "week" : "older";
}
