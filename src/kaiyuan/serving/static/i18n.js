// The interface's language: the reader's choice, else the browser's.

import { WORDS } from "./words.js";
import { preference, setPreference } from "./preferences.js";

let language = preference("language") ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");
if (!(language in WORDS)) language = "en";

/** The words for `key`; {name} in them becomes `values.name`. */
export function t(key, values = {}) {
  const text = WORDS[language][key] ?? WORDS.en[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}

/** A count with the language's separators. */
export function number(value, digits = 0) {
  const options = { maximumFractionDigits: digits, minimumFractionDigits: digits };
  return value.toLocaleString(language === "zh" ? "zh-CN" : "en-US", options);
}

/** A short time: 0.31 s, 12 s. */
export function seconds(milliseconds) {
  const value = milliseconds / 1000;
  return language === "zh" ? `${number(value, value < 10 ? 2 : 0)} 秒` : `${number(value, value < 10 ? 2 : 0)} s`;
}

export function toggleLanguage() {
  language = language === "zh" ? "en" : "zh";
  setPreference("language", language);
}

/** Put the words into the elements of index.html that name them: data-t, data-t-label, data-t-placeholder. */
export function translatePage() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const element of document.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  for (const element of document.querySelectorAll("[data-t-label]")) element.setAttribute("aria-label", t(element.dataset.tLabel));
  for (const element of document.querySelectorAll("[data-t-placeholder]")) element.placeholder = t(element.dataset.tPlaceholder);
}
