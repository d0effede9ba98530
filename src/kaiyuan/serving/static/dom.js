// Making elements. Text always goes through textContent, so nothing in it can become markup.

const SVG = "http://www.w3.org/2000/svg";

/**
 * An element. `options`: `class`, `text`, `data` (dataset), `onEVENT` (listeners), other names are attributes;
 * null, undefined and false leave an attribute out, true sets it empty.
 */
export function el(tag, options = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) setOption(element, name, value);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function setOption(element, name, value) {
  if (value === null || value === undefined || value === false) return;
  if (name === "class") element.className = value;
  else if (name === "text") element.textContent = value;
  else if (name === "data") Object.assign(element.dataset, value);
  else if (typeof value === "function") element.addEventListener(name.slice(2), value);
  else element.setAttribute(name, value === true ? "" : value);
}

/** The element with this id in index.html. */
export function byId(id) {
  return document.getElementById(id);
}

/** On a square of 20; what stands behind a bar is filled. */
const PATHS = {
  menu: "M3 6h14M3 10h14M3 14h9",
  sliders: "M3 6h8M15 6h2M3 14h2M9 14h8M13 4v4M7 12v4",
  plus: "M10 4v12M4 10h12",
  send: "M10 16V4.5M5 9.3l5-5 5 5",
  stop: "M6 6h8v8H6z",
  copy: "M7 7h9v9H7zM13 7V4H4v9h3",
  check: "M4 10.5l4 4 8-9",
  again: "M15.8 8.5A6 6 0 1 0 16 11.5M16 4v4.5h-4.5",
  edit: "M4 16l.7-3.3L13.5 4l2.5 2.5-8.7 8.8L4 16zM11.7 5.8l2.5 2.5",
  bin: "M4 6h12M8 6V4h4v2M5.5 6l.7 10h7.6l.7-10M8.5 9v4.5M11.5 9v4.5",
  left: "M12 5l-5 5 5 5",
  right: "M8 5l5 5-5 5",
  down: "M10 4v11.5M5 10.7l5 5 5-5",
  close: "M5 5l10 10M15 5L5 15",
  sun: "M10 6.5a3.5 3.5 0 1 0 0 7 3.5 3.5 0 0 0 0-7zM10 2v1.5M10 16.5V18M2 10h1.5M16.5 10H18M4.3 4.3l1.1 1.1M14.6 14.6l1.1 1.1M4.3 15.7l1.1-1.1M14.6 5.4l1.1-1.1",
  moon: "M16.5 12A7 7 0 0 1 8 3.5a7 7 0 1 0 8.5 8.5z",
  auto: "M10 3a7 7 0 1 0 0 14 7 7 0 0 0 0-14z|M10 3a7 7 0 0 1 0 14z",
  export: "M10 3v9.5M6 9l4 4 4-4M4 16.5h12",
  import: "M10 13V3.5M6 7l4-4 4 4M4 16.5h12",
};

/** A line drawing, hidden from screen readers: its button carries the label. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 20 20");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", `icon icon-${name}`);
  PATHS[name].split("|").forEach((line, index) => {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", line);
    if (index) path.setAttribute("class", "solid");
    svg.append(path);
  });
  return svg;
}

/** A button with an icon alone; `label` is its name and its tooltip. */
export function iconButton(name, label, onclick, options = {}) {
  const classes = `icon-button ${options.class ?? ""}`.trim();
  return el("button", { type: "button", title: label, "aria-label": label, onclick, ...options, class: classes }, icon(name));
}

/** Tell screen readers, without moving the focus. */
export function announce(text) {
  byId("announce").textContent = text;
}

/** Copy `text`; true if it worked. The clipboard's own interface is missing on plain http to other machines. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text);
  }
}

function copyBySelection(text) {
  const focused = document.activeElement;
  const area = el("textarea", { class: "unseen", "aria-hidden": "true" });
  area.value = text;
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  focused?.focus();
  return copied;
}

/** A copy button that shows for a moment that it has worked. `text` is called when it is pressed. */
export function copyButton(label, done, text) {
  const button = iconButton("copy", label, async () => {
    if (!(await copyText(text()))) return;
    button.replaceChildren(icon("check"));
    announce(done);
    setTimeout(() => button.replaceChildren(icon("copy")), 1500);
  });
  return button;
}
