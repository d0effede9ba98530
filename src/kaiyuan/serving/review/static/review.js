// The page: a name, then one sample after the other, judged by keys or buttons. All text goes in as text.

import { get, post } from "./desk.js";
import { announce, byId, el, iconButton } from "./dom.js";
import { number, t, toggleLanguage, translatePage } from "./i18n.js";
import { preference, setPreference } from "./preferences.js";
import { Prose } from "./prose.js";
import { reportView } from "./report.js";

const REASONS = ["wrong", "incomplete", "off topic", "unclear question", "language", "format", "unsafe", "personal data", "other"];
const WORD = { language: "reason language" };
const THEMES = { auto: ["themeAuto", "light", "auto"], light: ["themeLight", "dark", "sun"], dark: ["themeDark", "auto", "moon"] };

const state = { reviewer: preference("reviewer") ?? "", view: "start", sample: null, progress: null, dropping: false, reasons: new Set(), note: "", busy: false };

/** Do `action` unless another one is under way; what fails is said, with a way to try again. */
async function once(action) {
  if (state.busy) return;
  state.busy = true;
  try {
    await action();
    if (byId("notice").classList.contains("bad")) byId("notice").hidden = true;
  } catch (error) {
    if (error.status === 409) say(t("nothing"));
    else say(error.message, () => once(action));
  } finally {
    state.busy = false;
  }
}

let noticeTimer = 0;

function say(text, again) {
  const box = byId("notice");
  const button = again ? el("button", { type: "button", class: "link", text: t("retry"), onclick: again }) : null;
  box.replaceChildren(...[el("span", { text }), button].filter(Boolean));
  box.classList.toggle("bad", Boolean(again));
  box.hidden = false;
  clearTimeout(noticeTimer);
  if (!again) noticeTimer = setTimeout(() => (box.hidden = true), 1600);
}

function take(reply) {
  Object.assign(state, { view: "sample", sample: reply.sample, progress: reply.progress, dropping: false, note: "", reasons: new Set() });
  if (reply.before) Object.assign(state, { note: reply.before.note, reasons: new Set(reply.before.reasons), dropping: reply.before.verdict === "drop" });
  show();
  byId("scroller").scrollTop = 0;
}

const begin = () => once(async () => take(await post("/api/next", { reviewer: state.reviewer })));

function judge(verdict) {
  const { reviewer, sample, note } = state;
  if (!sample) return;
  const reasons = verdict === "drop" ? [...state.reasons] : [];
  once(async () => {
    take(await post("/api/verdict", { reviewer, sample: sample.hash, verdict, reasons, note: verdict === "drop" ? note : "" }));
    say(t(verdict === "drop" ? "dropped" : "kept"));
  });
}

const undo = () => once(async () => {
  take(await post("/api/undo", { reviewer: state.reviewer }));
  say(t("undone"));
});

const showReport = () => once(async () => {
  const report = await get("/api/report");
  state.view = "report";
  show();
  byId("sheet").replaceChildren(reportView(report, begin));
  byId("back").focus();
});

function setDropping(dropping) {
  state.dropping = dropping;
  showJudge();
  if (dropping) byId("judge").querySelector(".reasons .button").focus();
  else byId("scroller").focus();
}

function toggleReason(reason) {
  if (!state.reasons.delete(reason)) state.reasons.add(reason);
  for (const button of byId("judge").querySelectorAll("[data-reason]")) {
    button.setAttribute("aria-pressed", String(state.reasons.has(button.dataset.reason)));
  }
}

function show() {
  translatePage();
  document.title = `${t("title")} · kaiyuan 开元`;
  showTop();
  if (state.view === "start") byId("sheet").replaceChildren(startView());
  if (state.view === "sample") byId("sheet").replaceChildren(...sampleView());
  showJudge();
}

function showTop() {
  const { progress, view } = state;
  const bar = byId("progress");
  bar.hidden = !progress || view === "start";
  if (progress) {
    bar.firstElementChild.style.width = `${(100 * progress.done) / Math.max(progress.needed, 1)}%`;
    bar.setAttribute("aria-valuemax", progress.needed);
    bar.setAttribute("aria-valuenow", progress.done);
    bar.setAttribute("aria-label", t("progress", { done: progress.done, needed: progress.needed }));
  }
  const counts = progress && view !== "start" ? [t("progress", { done: number(progress.done), needed: number(progress.needed) }), t("mine", { count: number(progress.mine) })] : [];
  byId("count").textContent = counts.join(" · ");
  const theme = preference("theme") ?? "auto";
  const [label, next, name] = THEMES[theme] ?? THEMES.auto;
  const button = (id, text, onclick, title) => el("button", { type: "button", class: "button", id, text, onclick, title });
  byId("tools").replaceChildren(
    ...(view === "start" ? [] : [button("open-report", t("report"), showReport), button("change", state.reviewer, leave, t("change"))]),
    button("language", t("language"), () => { toggleLanguage(); show(); byId("language").focus(); }, t("languageLabel")),
    iconButton(name, t(label), () => setTheme(next), { id: "theme" }),
  );
}

function setTheme(theme) {
  setPreference("theme", theme === "auto" ? null : theme);
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  showTop();
  byId("theme").focus();
}

function leave() {
  Object.assign(state, { view: "start", sample: null });
  show();
  byId("name").focus();
}

function startView() {
  const field = el("input", { id: "name", class: "field", autocomplete: "off", maxlength: "60", required: true, value: state.reviewer, "aria-describedby": "name-hint" });
  const submit = (event) => {
    event.preventDefault();
    const name = field.value.trim();
    if (!name) return;
    state.reviewer = name;
    setPreference("reviewer", name);
    begin();
  };
  return el("form", { class: "start", onsubmit: submit },
    el("h1", { text: t("welcome") }), el("p", { text: t("explain") }),
    el("label", { for: "name", text: t("name") }), field, el("p", { id: "name-hint", class: "quiet", text: t("nameHint") }),
    el("button", { type: "submit", class: "button primary", id: "start", text: t("start") }));
}

function sampleView() {
  const { sample, progress } = state;
  if (!sample) {
    const text = t(progress.done >= progress.needed ? "done" : "doneMine");
    announce(text);
    return [el("div", { class: "start", id: "done" }, el("h1", { text }), el("button", { type: "button", class: "button primary", text: t("report"), onclick: showReport }))];
  }
  const turns = sample.messages.map(({ role, content }) => {
    const prose = el("div", { class: "prose", dir: "auto" });
    new Prose(prose).update(content);
    const name = { user: "question", assistant: "answer", system: "system" }[role];
    return el("section", { class: `turn ${role}` }, el("h2", { text: t(name) }), prose);
  });
  return [el("p", { class: "topic", id: "sample" }, el("span", { text: sample.label }), el("span", { text: sample.language })), ...turns];
}

function showJudge() {
  const box = byId("judge");
  box.hidden = state.view !== "sample" || !(state.sample || state.progress.mine);
  box.replaceChildren(...(state.dropping ? reasonsView() : verdictsView()));
}

function big(id, style, text, key, onclick) {
  return el("button", { type: "button", id, class: `button ${style}`, onclick }, text, el("kbd", { text: key }));
}

function verdictsView() {
  const row = el("div", { class: "verdicts" },
    state.sample && big("keep", "keep", t("keep"), "K", () => judge("keep")),
    state.sample && big("drop", "drop", t("drop"), "D", () => setDropping(true)),
    big("undo", "small", t("undo"), "U", undo));
  const keys = t("keys", { keep: "K", drop: "D", undo: "U", digits: "1–9", enter: "Enter" });
  return [row, el("p", { class: "keys", text: keys })];
}

function reasonsView() {
  const buttons = REASONS.map((reason, index) =>
    el("button", { type: "button", class: "button", data: { reason }, "aria-pressed": String(state.reasons.has(reason)), onclick: () => toggleReason(reason) },
      t(WORD[reason] ?? reason), el("kbd", { text: String(index + 1) })));
  const note = el("input", { class: "field note-field", id: "note", maxlength: "2000", placeholder: t("note"), "aria-label": t("note"), value: state.note, oninput: () => (state.note = note.value) });
  return [
    el("p", { class: "why", id: "why", text: t("why") }),
    el("div", { class: "reasons", role: "group", "aria-labelledby": "why" }, ...buttons), note,
    el("div", { class: "verdicts" }, big("confirm", "drop", t("dropIt"), "Enter", () => judge("drop")), big("cancel", "small", t("cancel"), "Esc", () => setDropping(false))),
  ];
}

/** Keys, unless somebody types or a key of the browser is meant. */
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || event.repeat || state.view !== "sample") return;
  const typing = event.target.matches("input, textarea");
  if (state.dropping) droppingKey(event, typing);
  else if (!typing) verdictKey(event);
});

function droppingKey(event, typing) {
  if (event.key === "Escape") setDropping(false);
  else if (event.key === "Enter" && !event.target.closest("#cancel")) judge("drop");
  else if (!typing && /^[1-9]$/.test(event.key)) toggleReason(REASONS[event.key - 1]);
  else return;
  event.preventDefault();
}

function verdictKey(event) {
  const action = { k: () => judge("keep"), d: () => setDropping(true), u: undo }[event.key.toLowerCase()];
  if (!action || (event.key.toLowerCase() !== "u" && !state.sample)) return;
  event.preventDefault();
  action();
}

show();
if (state.reviewer) begin();
else byId("name").focus();
