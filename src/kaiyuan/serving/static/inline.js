// Markdown inside a paragraph: text to DOM nodes. HTML in it is text.

import { el } from "./dom.js";
import { formula } from "./math.js";

const SAFE_LINKS = new Set(["http:", "https:", "mailto:"]);
const PUNCTUATION = /[!-/:-@[-`{-~]/;
const PLAIN = /[^\\`*_~$[\]!<&h\n]+/y;
const BARE_LINK = /https?:\/\/[\x21-\x7e]+/y;
const ANGLE_LINK = /<((?:https?:\/\/|mailto:)[^\s<>]*)>/y;
const BREAK_TAG = /<br\s*\/?>/iy;
const ENTITY = /&(?:(amp|lt|gt|quot|apos|nbsp)|#(\d{1,7})|#[xX]([0-9a-fA-F]{1,6}));/y;
const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0" };
const LONGEST_LABEL = 1000;
const DEEPEST_LINK = 4;
const LOOK_BACK = 200;

/** `open`: the text is still being written, so marks that are not closed yet count as closed at its end. */
export function inline(text, { open = false, depth = 0 } = {}) {
  return new Inline(text, open, depth).nodes();
}

/** The address if it is one that a link may have, else "". */
export function safeAddress(text) {
  try {
    const url = new URL(text);
    return SAFE_LINKS.has(url.protocol) ? url.href : "";
  } catch {
    return "";
  }
}

class Inline {
  constructor(text, open, depth) {
    Object.assign(this, { text, open, depth, at: 0, parts: [], plain: "" });
  }

  nodes() {
    while (this.at < this.text.length) this.step();
    this.flush();
    return emphasise(this.parts, this.open);
  }

  step() {
    const plain = this.match(PLAIN);
    if (plain) this.plain += plain[0];
    else if (!this.special(this.text[this.at])) this.plain += this.text[this.at++];
  }

  special(char) {
    if (char === "\n") return this.lineBreak();
    if (char === "\\") return this.backslash();
    if (char === "`") return this.codeSpan();
    if (char === "$") return this.dollar();
    if (char === "*" || char === "_" || char === "~") return this.marks(char);
    if (char === "[") return this.link(this.at, false);
    if (char === "!" && this.text[this.at + 1] === "[") return this.link(this.at + 1, true);
    if (char === "<") return this.angle();
    if (char === "&") return this.entity();
    if (char === "h") return this.bareLink();
    return false;
  }

  match(pattern) {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.text);
    if (found) this.at = pattern.lastIndex;
    return found;
  }

  push(part) {
    this.flush();
    this.parts.push(part);
    return true;
  }

  flush() {
    if (this.plain) this.parts.push({ node: document.createTextNode(this.plain) });
    this.plain = "";
  }

  lineBreak() {
    this.plain = this.plain.trimEnd();
    this.at += 1;
    while (this.text[this.at] === " ") this.at += 1;
    return this.push({ node: el("br") });
  }

  backslash() {
    const next = this.text[this.at + 1];
    if (next === "(" || next === "[") return this.math(next === "[", 2, next === "[" ? "\\]" : "\\)") || this.literal(next);
    if (next === "\n") {
      this.at += 1;
      return this.lineBreak();
    }
    return next !== undefined && PUNCTUATION.test(next) ? this.literal(next) : false;
  }

  literal(char) {
    this.plain += char;
    this.at += 2;
    return true;
  }

  codeSpan() {
    const run = /`+/y;
    run.lastIndex = this.at;
    const fence = run.exec(this.text)[0];
    const begin = this.at + fence.length;
    let end = this.closing(fence, begin);
    if (end < 0 && this.open && begin < this.text.length && fence.length === 1) end = this.text.length;
    if (end < 0) {
      this.plain += fence;
      this.at = begin;
      return true;
    }
    const code = this.text.slice(begin, end).replaceAll("\n", " ");
    this.at = end + fence.length;
    return this.push({ node: el("code", { text: /^ .*[^ ].* $/.test(code) ? code.slice(1, -1) : code }) });
  }

  /** Where exactly this many backticks come next; -1 if nowhere. Each length is looked for once. */
  closing(fence, from) {
    this.absent ??= new Set();
    if (this.absent.has(fence.length)) return -1;
    const runs = /`+/g;
    runs.lastIndex = from;
    for (let run = runs.exec(this.text); run; run = runs.exec(this.text)) {
      if (run[0].length === fence.length) return run.index;
    }
    this.absent.add(fence.length);
    return -1;
  }

  /** $...$ with no space inside its ends and no digit behind, so that prices stay prices; $$...$$ stands alone. */
  dollar() {
    if (this.text[this.at + 1] === "$") return this.math(true, 2, "$$");
    if (/\s|^$/.test(this.text[this.at + 1] ?? "")) return false;
    const end = this.dollarEnd(this.at + 1);
    if (end < 0) return false;
    const tex = this.text.slice(this.at + 1, end);
    this.at = end + 1;
    return this.push({ node: formula(tex, false) });
  }

  dollarEnd(from) {
    for (let end = from; end < this.text.length; end += 1) {
      const char = this.text[end];
      if (char === "\\") end += 1;
      else if (char === "\n" && this.text[end + 1] === "\n") return -1;
      else if (char === "$") return /\s/.test(this.text[end - 1]) || /\d/.test(this.text[end + 1] ?? "") ? -1 : end;
    }
    return -1;
  }

  math(display, width, close) {
    const end = this.text.indexOf(close, this.at + width);
    if (end < 0) return false;
    const tex = this.text.slice(this.at + width, end);
    if (!tex.trim()) return false;
    this.at = end + close.length;
    return this.push({ node: formula(tex, display) });
  }

  /** A run of * _ or ~~: what it can open and close depends on its neighbours. */
  marks(char) {
    let end = this.at;
    while (this.text[end] === char) end += 1;
    const run = this.text.slice(this.at, end);
    if (char === "~" && run.length !== 2) return this.word(run);
    const before = this.text[this.at - 1] ?? " ";
    const after = this.text[end] ?? " ";
    let opens = !/\s/.test(after);
    let closes = !/\s/.test(before);
    if (char === "_") [opens, closes] = [opens && !/[\p{L}\p{N}]/u.test(before), closes && !/[\p{L}\p{N}]/u.test(after)];
    this.at = end;
    return this.push({ char, length: run.length, whole: run.length, opens, closes });
  }

  word(text) {
    this.plain += text;
    this.at += text.length;
    return true;
  }

  /** [label](address "title"). An address that is not allowed leaves the source as text. */
  link(at, image) {
    const end = this.labelEnd(at);
    const found = end < 0 ? null : destination(this.text, end + 1);
    if (!found || this.depth >= DEEPEST_LINK) return false;
    const label = this.text.slice(at + 1, end);
    const source = this.text.slice(this.at, found.end);
    const address = safeAddress(found.address);
    this.at = found.end;
    if (!address) return this.push({ node: document.createTextNode(shortened(source)) });
    if (image) return this.push({ node: anchor(address, [label || address], "image-link") });
    return this.push({ node: anchor(address, inline(label, { depth: this.depth + 1 })) });
  }

  labelEnd(at) {
    this.lastBracket ??= this.text.lastIndexOf("]");
    if (at > this.lastBracket) return -1;
    let nested = 0;
    const stop = Math.min(this.text.length, at + LONGEST_LABEL);
    for (let end = at; end < stop; end += 1) {
      const char = this.text[end];
      if (char === "\\") end += 1;
      else if (char === "[") nested += 1;
      else if (char === "]" && --nested === 0) return end;
    }
    return -1;
  }

  angle() {
    const [, address] = this.match(ANGLE_LINK) ?? [];
    if (address) return this.push(linkPart(address));
    return this.match(BREAK_TAG) ? this.push({ node: el("br") }) : false;
  }

  entity() {
    const [, name, decimal, hex] = this.match(ENTITY) ?? [];
    const code = decimal ? Number(decimal) : hex ? parseInt(hex, 16) : 0;
    if (!name && !code) return false;
    this.plain += name ? ENTITIES[name] : code <= 0x10ffff ? String.fromCodePoint(code).toWellFormed() : "\ufffd";
    return true;
  }

  bareLink() {
    if (/\w/.test(this.text[this.at - 1] ?? "")) return false;
    const [found] = this.match(BARE_LINK) ?? [];
    if (!found || this.depth > 0) {
      if (found) this.plain += found;
      return Boolean(found);
    }
    const address = trimmed(found);
    this.at -= found.length - address.length;
    return this.push(linkPart(address));
  }
}

function linkPart(text) {
  const address = safeAddress(text);
  return { node: address ? anchor(address, [text.replace(/^mailto:/, "")]) : document.createTextNode(text) };
}

function anchor(address, children, name) {
  return el("a", { href: address, title: address, target: "_blank", rel: "noopener noreferrer", class: name }, ...children);
}

/** An address in running text does not end in punctuation, nor in a bracket that opened before it. */
function trimmed(address) {
  let end = address.search(/[<>"`]|\*\*/);
  let text = end < 0 ? address : address.slice(0, end);
  for (;;) {
    const last = text.at(-1);
    const unpaired = last === ")" && text.split(")").length > text.split("(").length;
    if (!/[.,:;!?'*_~\]]/.test(last) && !unpaired) return text;
    text = text.slice(0, -1);
  }
}

function shortened(source) {
  return source.length > 300 ? `${source.slice(0, 200)}…` : source;
}

/** What stands in the round brackets at `at`: {address, end}, or null. */
function destination(text, at) {
  if (text[at] !== "(") return null;
  const found = /\(\s*(?:<([^<>\n]*)>|((?:[^\s()\\]|\\.|\((?:[^\s()\\]|\\.)*\))*))(?:\s+(?:"[^"]*"|'[^']*'))?\s*\)/y;
  found.lastIndex = at;
  const match = found.exec(text);
  return match ? { address: match[1] ?? match[2], end: found.lastIndex } : null;
}

/** Pair the runs of marks and wrap what is between them. */
function emphasise(parts, open) {
  for (let at = 0; at < parts.length; at += 1) {
    while (parts[at].char && parts[at].closes && parts[at].length) {
      const opener = openerOf(parts, at);
      if (opener < 0) break;
      at = wrap(parts, opener, at);
    }
  }
  if (open) closeAtEnd(parts);
  return parts.map((part) => part.node ?? document.createTextNode(part.char.repeat(part.length)));
}

function openerOf(parts, at) {
  const closer = parts[at];
  for (let back = at - 1; back >= 0 && back > at - LOOK_BACK; back -= 1) {
    const part = parts[back];
    if (part.char !== closer.char || !part.opens || !part.length || back === at - 1) continue;
    const both = (part.opens && part.closes) || (closer.opens && closer.closes);
    const odd = (part.whole + closer.whole) % 3 === 0 && (part.whole % 3 !== 0 || closer.whole % 3 !== 0);
    if (!(both && odd)) return back;
  }
  return -1;
}

/** Wrap the parts between two runs; returns where the closing run now is. */
function wrap(parts, opener, closer) {
  const used = parts[opener].length >= 2 && parts[closer].length >= 2 ? 2 : 1;
  const tag = parts[opener].char === "~" ? "del" : used === 2 ? "strong" : "em";
  const inner = parts.slice(opener + 1, closer).map((part) => part.node ?? document.createTextNode(part.char.repeat(part.length)));
  parts[opener].length -= used;
  parts[closer].length -= used;
  parts.splice(opener + 1, closer - opener - 1, { node: el(tag, {}, ...inner) });
  return opener + 2;
}

/** The text is still being written: its last opening ** gets the rest, so that it does not jump when it closes. */
function closeAtEnd(parts) {
  const opener = parts.findLastIndex((part) => part.char === "*" && part.opens && part.length === 2);
  if (opener < 0 || opener === parts.length - 1) return;
  parts.push({ char: "*", length: 2, whole: 2 });
  wrap(parts, opener, parts.length - 1);
}
