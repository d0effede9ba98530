// Light highlighting: comments, strings, numbers, keywords and calls, by one regular expression for each family of languages.

import { el } from "./dom.js";

const words = (text) => new Set(text.split(" "));

const KEYWORDS = {
  python: words("and as assert async await break case class continue def del elif else except False finally for from global if import in is lambda match None nonlocal not or pass raise return self True try while with yield"),
  script: words("abstract as async await break case catch class const continue default delete do else enum export extends false finally for from function get if implements import in instanceof interface let new null of private public return set static super switch this throw true try type typeof undefined var void while yield"),
  native: words("abstract as async auto await bool boolean break byte case catch char class const constexpr continue crate default defer delete do double dyn else enum export extends extern false final finally float fn for func go goto if impl implements import in inline instanceof int interface let long loop map match mod move mut namespace new nil null nullptr operator override package private protected pub public range return self short signed sizeof static string struct super switch template this throw throws trait true try type typedef typename union unsafe unsigned use using var virtual void volatile where while yield"),
  shell: words("case do done elif else esac exit export fi for function if in local return select set shift source then trap unset until while"),
  sql: words("add all alter and as asc between by case create cross default delete desc distinct drop else end exists false foreign from full group having if in index inner insert into is join key left like limit not null offset on or order outer primary references right select set table then true union unique update using values view when where with"),
  data: words("true false null yes no on off"),
  none: new Set(),
};

const STRING = String.raw`"(?:[^"\\\n]|\\.)*"?|'(?:[^'\\\n]|\\.)*'?`;
const NUMBER = String.raw`\b(?:0[xXbBoO][\da-fA-F_]+|\d[\d_]*(?:\.\d[\d_]*)?(?:[eE][+-]?\d+)?)\w*`;
const NAME = String.raw`[\p{L}_$][\p{L}\p{N}_$]*`;
const SLASHES = String.raw`\/\/.*|\/\*[^]*?(?:\*\/|$)`;
const TRIPLE = String.raw`(?:[rbfuRBFU]{1,2})?(?:"""[^]*?(?:"""|$)|'''[^]*?(?:'''|$)|${STRING})`;
const TEMPLATE = "`(?:[^`\\\\]|\\\\[^])*(?:`|$)";

const FAMILIES = {
  python: { comment: "#.*", string: TRIPLE },
  script: { comment: SLASHES, string: `${TEMPLATE}|${STRING}` },
  native: { comment: SLASHES, string: `${TEMPLATE}|"(?:[^"\\\\\\n]|\\\\.)*"?|'(?:[^'\\\\\\n]|\\\\.)'` },
  shell: { comment: String.raw`(?<![^\s;])#.*`, string: String.raw`"(?:[^"\\]|\\[^])*(?:"|$)|'[^']*(?:'|$)|\$\w+|\$\{[^}\n]*\}?` },
  sql: { comment: String.raw`--.*|\/\*[^]*?(?:\*\/|$)`, string: STRING, anyCase: true },
  data: { comment: "#.*", string: STRING },
  json: { comment: SLASHES, string: STRING, keywords: "data" },
  css: { comment: String.raw`\/\*[^]*?(?:\*\/|$)`, string: STRING, keywords: "none" },
  markup: { comment: "<!--[^]*?(?:-->|$)", string: '"[^"\\n]*"', keywords: "none", tags: true },
};

const ALIASES = {
  python: "py python3 pycon jupyter", script: "js javascript mjs jsx ts tsx typescript node",
  native: "c h cpp c++ cc cxx hpp cuda cu java kotlin kt scala swift go golang rust rs cs csharp php dart zig",
  shell: "sh bash zsh fish console shell-session shell powershell ps1 dockerfile makefile make", sql: "sqlite mysql postgresql postgres",
  data: "toml yaml yml ini conf cfg properties", json: "jsonc json5 jsonl", css: "scss less", markup: "html xml svg vue xhtml",
};
const FAMILY_OF = new Map(
  Object.entries(ALIASES).flatMap(([family, names]) => [family, ...names.split(" ")].map((name) => [name, family])),
);
const PATTERNS = new Map();

function patternOf(name) {
  if (!PATTERNS.has(name)) {
    const { comment, string, tags } = FAMILIES[name];
    const parts = [`(?<comment>${comment})`, `(?<string>${string})`];
    if (tags) parts.push(String.raw`(?<tag><\/?[\w:-]+|\/?>)`);
    parts.push(`(?<number>${NUMBER})`, `(?<name>${NAME})`);
    PATTERNS.set(name, new RegExp(parts.join("|"), "gu"));
  }
  return PATTERNS.get(name);
}

/**
 * The code inside a block, which grows while it streams. Lines whose colours are settled are left alone;
 * `update` does the rest again.
 */
export class Code {
  constructor(language) {
    this.family = FAMILY_OF.get(language) ?? "";
    this.diff = language === "diff" || language === "patch";
    this.element = el("code");
    this.text = "";
    this.settled = 0;
    this.kept = 0;
    this.count = 0;
  }

  append(node) {
    this.element.append(node);
    this.count += 1;
  }

  update(text) {
    if (!text.startsWith(this.text.slice(0, this.settled))) this.settled = this.kept = 0;
    this.text = text;
    for (; this.count > this.kept; this.count -= 1) this.element.lastChild.remove();
    if (this.diff) this.appendDiff();
    else if (this.family) this.appendTokens();
    else this.appendBetween(this.settled, text.length);
  }

  appendDiff() {
    for (const line of this.text.slice(this.settled).split(/(?<=\n)/)) {
      const kind = line.startsWith("+") ? "added" : line.startsWith("-") ? "taken" : line.startsWith("@@") ? "comment" : "";
      this.append(kind ? el("span", { class: `code-${kind}`, text: line }) : line);
      if (line.endsWith("\n")) this.keepUpTo(this.settled + line.length);
    }
  }

  appendTokens() {
    const { text } = this;
    const family = FAMILIES[this.family];
    const pattern = patternOf(this.family);
    const keywords = KEYWORDS[family.keywords ?? this.family];
    let at = this.settled;
    pattern.lastIndex = at;
    for (let found = pattern.exec(text); found; found = pattern.exec(text)) {
      this.appendBetween(at, found.index);
      at = pattern.lastIndex;
      const kind = kindOf(found.groups, keywords, family.anyCase, text[at]);
      this.append(kind ? el("span", { class: `code-${kind}`, text: found[0] }) : found[0]);
      if (at === found.index) pattern.lastIndex += 1;
    }
    this.appendBetween(at, text.length);
  }

  /** Text between two tokens; a line break in it settles what came before. */
  appendBetween(from, to) {
    const text = this.text.slice(from, to);
    const line = text.lastIndexOf("\n") + 1;
    if (line) {
      this.append(text.slice(0, line));
      this.keepUpTo(from + line);
    }
    if (line < text.length) this.append(text.slice(line));
  }

  keepUpTo(end) {
    this.settled = end;
    this.kept = this.count;
  }
}

function kindOf({ comment, string, tag, number, name }, keywords, anyCase, next) {
  if (comment) return "comment";
  if (string) return "string";
  if (tag) return "keyword";
  if (number) return "number";
  if (keywords.has(anyCase ? name.toLowerCase() : name)) return "keyword";
  return next === "(" ? "call" : "";
}
