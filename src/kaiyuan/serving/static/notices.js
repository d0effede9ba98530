// What the page says beside the conversation: a toast, a banner, and the dialog for the API key.

import { isKey, setKey } from "./api.js";
import { byId, el } from "./dom.js";
import { t } from "./i18n.js";

const TOAST_TIME = 8000;
let toastTimer = 0;

/** A message at the bottom that goes by itself, with at most one action. */
export function toast(text, action, onaction) {
  const box = byId("toast");
  const hide = () => (box.hidden = true);
  const act = () => {
    hide();
    onaction();
  };
  box.replaceChildren(el("span", { text }), ...(action ? [el("button", { type: "button", class: "link", text: action, onclick: act })] : []));
  box.hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(hide, TOAST_TIME);
}

/** A message above the conversation that stays until it is replaced; without `text` it goes. */
export function banner(text, action, onaction) {
  const box = byId("banner");
  box.hidden = !text;
  const button = action ? [el("button", { type: "button", class: "link", text: action, onclick: onaction })] : [];
  box.replaceChildren(...(text ? [el("span", { text }), ...button] : []));
}

/** Ask for the key; `ongiven` is called once there is one. `wrong`: the one we had was refused. */
export function askForKey(wrong, ongiven) {
  const dialog = byId("key-dialog");
  if (dialog.open) return;
  const field = el("input", {
    id: "key", class: "field", type: "password", autocomplete: "off", spellcheck: "false", "aria-describedby": "key-problem",
  });
  const problem = el("p", { id: "key-problem", class: "problem", role: "alert", text: wrong ? t("keyWrong") : "" });
  const submit = (event) => {
    event.preventDefault();
    const key = field.value.trim();
    if (!isKey(key)) {
      problem.textContent = t("keyShape");
      return;
    }
    setKey(key);
    dialog.close();
    ongiven();
  };
  dialog.replaceChildren(
    el("form", { onsubmit: submit },
      el("h2", { id: "key-title", text: t("keyTitle") }), el("p", { text: t("keyText") }),
      el("label", { for: "key", text: t("keyField") }), field, problem, keyButtons(dialog, field)),
  );
  dialog.showModal();
  field.focus();
}

function keyButtons(dialog, field) {
  const toggle = () => (field.type = field.type === "password" ? "text" : "password");
  return el("div", { class: "row" },
    el("button", { type: "button", class: "button quiet", text: t("keyShow"), onclick: toggle }),
    el("span", { class: "grow" }),
    el("button", { type: "button", class: "button", text: t("cancel"), onclick: () => dialog.close() }),
    el("button", { type: "submit", class: "button primary", text: t("keyUse") }));
}
