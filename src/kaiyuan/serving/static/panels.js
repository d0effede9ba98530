// The list of conversations, and the settings of the one that is open.

import { byId, el, iconButton } from "./dom.js";
import { t, toggleLanguage } from "./i18n.js";
import { preference, setPreference } from "./preferences.js";
import { Conversation, cleanSampling } from "./tree.js";

const NUMBERS = [
  ["temperature", 0, 2, 0.1], ["top_p", 0.01, 1, 0.01], ["top_k", 0, 1000, 1], ["min_p", 0, 1, 0.01], ["max_tokens", 1, 32768, 1], ["seed", 0, 2 ** 31, 1],
  ["presence_penalty", -2, 2, 0.1], ["frequency_penalty", -2, 2, 0.1], ["repetition_penalty", 0.1, 2, 0.05],
];

export function fillSidebar(page) {
  byId("new-chat").textContent = t("newChat");
  const theme = preference("theme") ?? "auto";
  const next = { auto: "light", light: "dark", dark: "auto" }[theme];
  const file = el("input", { type: "file", accept: "application/json", class: "unseen", onchange: () => page.importFile(file) });
  byId("sidebar-foot").replaceChildren(
    iconButton("export", t("exportAll"), () => page.exportAll()), iconButton("import", t("import"), () => file.click()), file,
    iconButton({ auto: "auto", light: "sun", dark: "moon" }[theme], t({ auto: "themeAuto", light: "themeLight", dark: "themeDark" }[theme]), () => {
      setPreference("theme", next === "auto" ? null : next);
      if (next === "auto") delete document.documentElement.dataset.theme;
      else document.documentElement.dataset.theme = next;
      fillSidebar(page);
    }),
    el("button", { class: "button", type: "button", text: t("language"), "aria-label": t("languageLabel"), onclick: () => { toggleLanguage(); page.translate(); } }),
  );
}

export function fillList(page) {
  const wanted = byId("search").value.trim().toLowerCase();
  const found = page.conversations.filter((one) => one.nodes.size && (!wanted || one.has(wanted)));
  const rows = found.sort((a, b) => b.updated - a.updated).map((one) => row(page, one));
  byId("conversations").replaceChildren(...(rows.length ? rows : [el("p", { class: "note", text: t(wanted ? "noneFound" : "noneYet") })]));
}

function row(page, conversation) {
  const name = conversation.title || t("untitled");
  const open = el("button", { class: "open", type: "button", text: name, onclick: () => page.open(conversation) });
  const line = el("div", { class: conversation === page.conversation ? "row current" : "row" }, open);
  line.append(
    iconButton("edit", t("rename"), () => {
      const field = el("input", { class: "field", "aria-label": t("rename"), onchange: () => page.rename(conversation, field.value), onblur: () => fillList(page) });
      field.value = name;
      line.replaceChildren(field);
      field.select();
    }),
    iconButton("bin", t("remove"), () => page.remove(conversation)),
  );
  return line;
}

export function fillSettings(page) {
  const { conversation } = page;
  const system = el("textarea", { rows: 3, placeholder: t("systemHint"), oninput: () => { conversation.system = system.value; page.save(); } });
  system.value = conversation.system;
  const fields = NUMBERS.map(([name, min, max, step]) => {
    const input = el("input", { type: "number", class: "field", min, max, step, placeholder: t("auto"), name });
    input.value = conversation.sampling[name] ?? "";
    input.addEventListener("input", () => {
      const values = { ...conversation.sampling, [name]: input.value === "" || !input.checkValidity() ? NaN : input.valueAsNumber };
      conversation.sampling = cleanSampling(values);
      page.save();
    });
    return el("label", {}, el("span", { text: t(name) }), input);
  });
  byId("settings").replaceChildren(
    el("h2", { text: t("settings") }), el("label", {}, el("span", { text: t("system") }), system), ...fields,
    el("button", { class: "button", type: "button", text: t("reset"), onclick: () => { conversation.sampling = {}; page.save(); fillSettings(page); } }),
  );
}

/** A file with all conversations. */
export function download(conversations) {
  const content = JSON.stringify({ format: "kaiyuan conversations", conversations }, null, 1);
  const link = el("a", { download: "kaiyuan-conversations.json", href: URL.createObjectURL(new Blob([content], { type: "application/json" })) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

/** The conversations of such a file. Throws an Error that says what is wrong. */
export async function readFile(file) {
  const { conversations } = JSON.parse(await file.text());
  if (!Array.isArray(conversations)) throw new Error("conversations: expected a list");
  return conversations.map((value) => Conversation.fromJSON(value));
}
