// The panel on the right: the system prompt and sampling parameters of this chat, and the conversations as files.

import { byId, el, icon, iconButton } from "./dom.js";
import { t } from "./i18n.js";
import { toast } from "./notices.js";
import { preference, setPreference } from "./preferences.js";
import { exportConversations, importFile } from "./transfer.js";
import { cleanSampling } from "./tree.js";

/** name: [least, most, step]; step null: whole numbers without a slider. What is left empty is the server's default. */
const FIELDS = {
  temperature: [0, 2, 0.05], top_p: [0.01, 1, 0.01], min_p: [0, 1, 0.01], presence_penalty: [-2, 2, 0.1], frequency_penalty: [-2, 2, 0.1],
  repetition_penalty: [0.5, 2, 0.01], top_k: [-1, 1_000_000, null], max_tokens: [1, 1_000_000, null],
  seed: [Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER, null],
};
/** The server takes more than the slider shows. */
const WIDEST = { temperature: [0, 100], repetition_penalty: [0.01, 100], top_p: [0.0001, 1] };
const HINTED = new Set(["temperature", "top_p", "min_p"]);
const NEUTRAL = { temperature: 1, top_p: 1, repetition_penalty: 1 };

/** What a new conversation starts with. */
export function defaultsForNew() {
  try {
    const { system, sampling } = JSON.parse(preference("defaults") ?? "{}");
    return { system: typeof system === "string" ? system : "", sampling: cleanSampling(sampling) };
  } catch {
    return {};
  }
}

export class Settings {
  constructor(app) {
    this.app = app;
  }

  show() {
    const close = iconButton("close", t("close"), () => this.app.panels.toggle("settings"));
    const head = el("div", { class: "settings-head" }, el("h2", { text: t("thisChat") }), close);
    const fields = Object.keys(FIELDS).map((name) => this.field(name));
    const buttons = el("div", { class: "row wrap" },
      el("button", { type: "button", class: "button", id: "make-default", text: t("makeDefault"), onclick: () => this.makeDefault() }),
      el("button", { type: "button", class: "button quiet", id: "reset", text: t("reset"), onclick: () => this.reset() }));
    byId("settings").replaceChildren(
      head, this.systemField(), el("h3", { text: t("sampling") }), el("div", { class: "fields" }, ...fields), buttons, this.files());
  }

  systemField() {
    const area = el("textarea", { id: "system", class: "field", rows: "4", dir: "auto", placeholder: t("systemHint") });
    area.value = this.app.current.system;
    area.addEventListener("input", () => {
      this.app.current.system = area.value;
      this.changed();
    });
    return el("div", { class: "setting" }, el("label", { for: "system", text: t("system") }), area);
  }

  field(name) {
    const [low, high, step] = FIELDS[name];
    const value = this.app.current.sampling[name];
    const input = el("input", {
      id: `set-${name}`, class: "field", type: "text", inputmode: low < 0 ? "text" : "decimal", autocomplete: "off", placeholder: t("auto"),
      "aria-describedby": `problem-${name}`,
    });
    input.value = value ?? "";
    const problem = el("p", { id: `problem-${name}`, class: "problem", role: "status" });
    const slider = step === null ? null : el("input", {
      type: "range", min: low, max: high, step, tabindex: "-1", "aria-hidden": "true", class: value === undefined ? "unset" : null,
    });
    if (slider) slider.value = value ?? NEUTRAL[name] ?? 0;
    input.addEventListener("input", () => this.take(name, input, slider, problem));
    slider?.addEventListener("input", () => {
      input.value = slider.value;
      this.take(name, input, null, problem);
      slider.className = "";
    });
    const label = el("label", { for: input.id, text: t(name) });
    const hint = HINTED.has(name) ? el("p", { class: "setting-hint", text: t(`${name}Hint`) }) : null;
    return el("div", { class: "setting number" }, label, input, slider, hint, problem);
  }

  take(name, input, slider, problem) {
    const [low, high] = WIDEST[name] ?? FIELDS[name];
    const whole = FIELDS[name][2] === null;
    const text = input.value.trim();
    const value = Number(text);
    const good = text === "" || (Number.isFinite(value) && value >= low && value <= high && (!whole || Number.isInteger(value)));
    problem.textContent = good ? "" : t(whole ? "outOfRangeWhole" : "outOfRange", { low, high });
    input.setAttribute("aria-invalid", String(!good));
    if (!good) return;
    if (text === "") delete this.app.current.sampling[name];
    else this.app.current.sampling[name] = value;
    if (slider) slider.className = text === "" ? "unset" : "";
    if (slider) slider.value = text === "" ? (NEUTRAL[name] ?? 0) : value;
    this.changed();
  }

  changed() {
    const { app } = this;
    if (app.conversations.has(app.current.id)) app.saver.save(app.current);
  }

  makeDefault() {
    const { system, sampling } = this.app.current;
    setPreference("defaults", JSON.stringify({ system, sampling }));
    toast(t("defaultSaved"));
  }

  reset() {
    this.app.current.sampling = {};
    this.changed();
    this.show();
    byId("reset").focus();
  }

  files() {
    const { app } = this;
    const chooser = el("input", { type: "file", id: "import-file", accept: "application/json,.json", multiple: true, hidden: true });
    chooser.addEventListener("change", () => this.import(chooser));
    const button = (name, label, onclick, options = {}) =>
      el("button", { type: "button", class: "button", onclick, ...options }, icon(name), t(label));
    const all = () => [...app.conversations.values()];
    return el("div", { class: "files" }, el("h3", { text: t("data") }), el("div", { class: "row wrap" },
      button("export", "exportOne", () => exportConversations([app.current]), { id: "export-one" }),
      button("export", "exportAll", () => exportConversations(all()), { id: "export-all" }),
      button("import", "import", () => chooser.click(), { id: "import" }),
      button("bin", "removeAll", () => all().length && app.remove(all()), { id: "remove-all", class: "button quiet" }), chooser));
  }

  async import(chooser) {
    const { app } = this;
    for (const file of chooser.files) {
      try {
        const found = await importFile(file, app.conversations);
        found.forEach((conversation) => app.keep(conversation));
        toast(t("imported", { count: found.length }));
      } catch (error) {
        toast(t("importFailed", { file: file.name, reason: error.message }));
      }
    }
    chooser.value = "";
  }
}
