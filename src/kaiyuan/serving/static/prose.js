// Markdown as DOM, which can grow: blocks that have not changed keep their elements.

import { copyButton, el } from "./dom.js";
import { Code } from "./highlight.js";
import { t } from "./i18n.js";
import { inline } from "./inline.js";
import { formula } from "./math.js";
import { parseBlocks } from "./blocks.js";

const DEEPEST = 10;
const OPEN_FORMULA = /^\s*(?:\$\$|\\\[|\\begin\{)/;
/** The last blocks may still change by what follows: a list can go on, a line can become a heading. */
const UNSETTLED = 2;

/** A text that is shown in `element` and may be written on. */
export class Prose {
  constructor(element) {
    this.element = element;
    this.text = "";
    this.shown = [];
  }

  /** Show `text`; `open` says that more will come. */
  update(text, open = false) {
    const kept = text.startsWith(this.text) ? Math.max(0, this.shown.length - UNSETTLED) : 0;
    const from = kept ? this.shown[kept].offset : 0;
    const blocks = parseBlocks(text.slice(from).replaceAll("\r\n", "\n"));
    place(blocks, text, from);
    this.text = text;
    const old = this.shown.splice(kept);
    blocks.forEach((block, index) => this.put(block, old[index], open && index === blocks.length - 1));
    for (const extra of old.slice(blocks.length)) extra.element.remove();
  }

  put(block, old, open) {
    const same = old && old.type === block.type;
    if (same && old.source === block.source && !old.open && !open) block.element = old.element;
    else if (same && GROWING[block.type]?.(old, block, open)) block.element = old.element;
    else block.element = render(block, open, 0);
    block.open = open;
    if (!old) this.element.append(block.element);
    else if (old.element !== block.element) old.element.replaceWith(block.element);
    block.offset ??= 0;
    this.shown.push(block);
  }
}

/** Set where in `text` each block begins. */
function place(blocks, text, from) {
  let line = 0;
  let offset = from;
  for (const block of blocks) {
    for (; line < block.line; line += 1) offset = text.indexOf("\n", offset) + 1;
    block.offset = offset;
  }
}

/** How a block's element takes in a longer version of the block; false if it has to be made anew. */
const GROWING = {
  code(old, block) {
    if (old.language !== block.language) return false;
    block.view = old.view;
    block.view.update(block.code);
    return true;
  },
  list(old, block, open) {
    if (old.ordered !== block.ordered || old.loose !== block.loose || old.start !== block.start) return false;
    const same = old.items.findIndex((item, index) => item !== block.items[index] || index === old.items.length - 1);
    const kept = same < 0 ? 0 : same;
    while (old.element.children.length > kept) old.element.lastChild.remove();
    block.items.slice(kept).forEach((item, index) => {
      old.element.append(listItem(item, block.loose, open && kept + index === block.items.length - 1, 0));
    });
    return true;
  },
};

/** The nodes of a text that is complete, as inside a list item. */
function renderAll(text, open, depth) {
  if (depth > DEEPEST) return [el("p", { text })];
  const blocks = parseBlocks(text);
  return blocks.map((block, index) => render(block, open && index === blocks.length - 1, depth));
}

function render(block, open, depth) {
  return RENDERERS[block.type](block, open, depth);
}

const RENDERERS = {
  paragraph(block, open) {
    if (open && OPEN_FORMULA.test(block.content)) return el("pre", { class: "tex-open", text: block.content });
    return el("p", {}, ...inline(block.content, { open }));
  },
  // The page's own headings are h1 and h2.
  heading: (block, open) => el(`h${Math.min(6, block.level + 2)}`, { class: `h${block.level}` }, ...inline(block.content, { open })),
  rule: () => el("hr"),
  quote: (block, open, depth) => el("blockquote", {}, ...renderAll(block.inner, open, depth + 1)),
  math: (block) => formula(block.tex, true),
  code: codeBlock,
  table,
  list(block, open, depth) {
    const last = block.items.length - 1;
    const items = block.items.map((item, index) => listItem(item, block.loose, open && index === last, depth));
    return block.ordered ? el("ol", { start: block.start === 1 ? null : block.start }, ...items) : el("ul", {}, ...items);
  },
};

/** A tight item's paragraphs are put into the item itself; [ ] and [x] in front become a box. */
function listItem(text, loose, open, depth) {
  const [, box, rest] = /^\[([ xX])\] ([^]*)$/.exec(text) ?? [];
  const nodes = renderAll(rest ?? text, open, depth + 1);
  const inner = loose ? nodes : nodes.flatMap((node) => (node.tagName === "P" ? [...node.childNodes] : [node]));
  if (box === undefined) return el("li", {}, ...inner);
  const check = el("input", { type: "checkbox", disabled: true, checked: box !== " ", "aria-label": box === " " ? "☐" : "☑" });
  return el("li", { class: "task" }, check, ...inner);
}

function codeBlock(block) {
  block.view = new Code(block.language);
  block.view.update(block.code);
  const name = el("span", { class: "code-name", text: block.language || t("code") });
  const head = el("div", { class: "code-head" }, name, copyButton(t("copy"), t("copied"), () => block.view.text));
  const body = el("pre", { tabindex: "0", role: "region", "aria-label": block.language || t("code") }, block.view.element);
  return el("div", { class: "code-block" }, head, body);
}

function table({ head, sides, rows }) {
  const line = (cells, tag) =>
    el("tr", {}, ...sides.map((side, index) => el(tag, { class: side ? `side-${side}` : null }, ...inline(cells[index] ?? ""))));
  const body = el("tbody", {}, ...rows.map((row) => line(row, "td")));
  const whole = el("table", {}, el("thead", {}, line(head, "th")), body);
  return el("div", { class: "table-frame", tabindex: "0", role: "region", "aria-label": head.join(", ") }, whole);
}
