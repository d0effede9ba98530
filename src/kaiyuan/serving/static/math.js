// LaTeX formulas as MathML elements, for the commands that answers use. What is not known is shown as it was written.

import { environment, isEnvironment } from "./math-tables.js";
import {
  ACCENTS, ARROWS, CLOSING, DELIMITERS, DOTS, FUNCTIONS, INTEGRALS, LARGE, LETTERS, LIMITS, NEGATED, OPENING, OPERATORS, SPACED_NAMES, SPACES,
  UNDER_ACCENTS, inAlphabet, isAlphabet,
} from "./math-symbols.js";

const MATHML = "http://www.w3.org/1998/Math/MathML";
const TOKEN = /\s+|%[^\n]*|\\(?:[a-zA-Z]+|[^]|$)|\d+(?:\.\d+)?|[^]/gu;
const LONGEST = 20_000;
const DEEPEST = 100;
const SIZES = /^\\(?:[bB]ig|[bB]igg)([lrm]?)$/;
const STYLES = { displaystyle: "true", textstyle: "false", scriptstyle: "false", dfrac: "true", tfrac: "false", dbinom: "true", tbinom: "false" };
const IGNORED = new Set("displaylimits nonumber notag allowbreak nobreak strut mathstrut hfill hfil noindent centering relax left right".split(" "));
const TEXTS = new Set("text textrm textnormal textit textsf texttt mbox hbox operatorname label tag ref".split(" "));

/** A MathML element. */
export function mathml(tag, attributes = {}, ...children) {
  const element = document.createElementNS(MATHML, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** `tex` as an element: <math>, in a frame of its own if it is for `display`. */
export function formula(tex, display) {
  const source = tex.trim();
  const row = source.length > LONGEST ? unknown(source) : new Parser(source, display).whole();
  const annotation = mathml("annotation", { encoding: "application/x-tex" }, source);
  const math = mathml("math", display ? { display: "block" } : {}, mathml("semantics", {}, row, annotation));
  if (!display) return math;
  const frame = document.createElement("div");
  frame.className = "formula";
  frame.tabIndex = 0;
  frame.append(math);
  return frame;
}

/** What is not understood, as text. */
export function unknown(text) {
  return mathml("mtext", { class: "tex-unknown" }, text);
}

export function rowOf(nodes) {
  return nodes.length === 1 ? nodes[0] : mathml("mrow", {}, ...nodes);
}

const operator = (text, attributes = {}) => mathml("mo", attributes, text);
const space = (width) => mathml("mspace", { width: `${width}em` });

export class Parser {
  constructor(source, display) {
    this.tokens = (source.match(TOKEN) ?? []).filter((token) => token[0] !== "%");
    Object.assign(this, { display, at: 0, depth: 0, alphabet: "" });
  }

  whole() {
    const nodes = [];
    while (this.at < this.tokens.length) {
      nodes.push(...this.row(() => false));
      if (this.at < this.tokens.length) nodes.push(unknown(this.tokens[this.at++]));
    }
    return rowOf(nodes);
  }

  peek() {
    while (/^\s/.test(this.tokens[this.at] ?? "")) this.at += 1;
    return this.tokens[this.at];
  }

  take(token) {
    if (this.peek() !== token) return false;
    this.at += 1;
    return true;
  }

  /** Atoms with their scripts, up to a token that ends this row (which stays), or one that ends any. */
  row(ends) {
    const nodes = [];
    const alphabet = this.alphabet;
    for (let token = this.peek(); token !== undefined; token = this.peek()) {
      if (ends(token) || ["}", "&", "\\\\", "\\end", "\\right", "\\middle", "\\cr"].includes(token)) break;
      if (token in STYLE_SWITCHES) {
        this.at += 1;
        nodes.push(mathml("mstyle", STYLE_SWITCHES[token], ...this.row(ends)));
        break;
      }
      nodes.push(...this.scripted(nodes));
    }
    this.alphabet = alphabet;
    return nodes;
  }

  /** One atom with what is above and below it. */
  scripted(before) {
    const start = this.at;
    const atom = this.atom(before);
    if (atom === null) return [];
    const scripts = this.scripts();
    if (this.at === start) this.at += 1;
    return [scripts.sub || scripts.sup ? withScripts(atom, scripts, this.display) : atom];
  }

  scripts() {
    const found = { sub: null, sup: null, primes: "", limits: null };
    for (;;) {
      if (this.take("'")) found.primes += "′";
      else if (this.take("\\limits")) found.limits = true;
      else if (this.take("\\nolimits")) found.limits = false;
      else if (!found.sub && this.take("_")) found.sub = tight(this.argument());
      else if (!found.sup && this.take("^")) found.sup = tight(this.argument());
      else break;
    }
    const primes = found.primes ? [operator(found.primes, { lspace: "0em", rspace: "0em" })] : [];
    if (primes.length) found.sup = rowOf(found.sup ? [...primes, found.sup] : primes);
    return found;
  }

  /** {...} or the next atom alone. */
  argument() {
    const token = this.peek();
    if (token === undefined || token === "}" || token === "&" || token === "\\\\") return mathml("mrow");
    if (/^\d\d/.test(token)) {
      this.tokens[this.at] = token.slice(1);
      return mathml("mn", {}, inAlphabet(token[0], this.alphabet));
    }
    return this.atom([]) ?? mathml("mrow");
  }

  group() {
    if (this.depth >= DEEPEST) return unknown(this.tokens[this.at++] ?? "");
    this.depth += 1;
    const nodes = this.row(() => false);
    this.take("}");
    this.depth -= 1;
    return rowOf(nodes);
  }

  /** [...], an option; null if there is none. */
  option() {
    if (!this.take("[")) return null;
    const nodes = this.row((token) => token === "]");
    this.take("]");
    return rowOf(nodes);
  }

  /** What stands in {...} as it was written. */
  raw() {
    if (this.peek() !== "{") return this.tokens[this.at++] ?? "";
    let depth = 0;
    let text = "";
    for (; this.at < this.tokens.length; this.at += 1) {
      const token = this.tokens[this.at];
      depth += (token === "{") - (token === "}");
      if (depth === 0) break;
      if (depth > 1 || token !== "{") text += token;
    }
    this.at += 1;
    return text;
  }

  /** The next atom; null for what shows nothing. */
  atom(before) {
    const token = this.peek();
    this.at += 1;
    if (token === "{") return this.group();
    if (token[0] === "\\") return this.depth < DEEPEST ? this.deeper(() => this.command(token.slice(1), before)) : unknown(token);
    if (/^\d/.test(token)) return mathml("mn", {}, [...token].map((digit) => inAlphabet(digit, this.alphabet)).join(""));
    if (/^[a-zA-Z]$/.test(token)) return this.letter(token);
    if (token === "_" || token === "^") {
      this.at -= 1;
      return mathml("mrow");
    }
    return symbol(token, this.alphabet);
  }

  deeper(action) {
    this.depth += 1;
    const node = action();
    this.depth -= 1;
    return node;
  }

  letter(char) {
    if (this.alphabet === "mathrm" || this.alphabet === "rm") return mathml("mi", { mathvariant: "normal" }, char);
    const other = inAlphabet(char, this.alphabet);
    return mathml("mi", other === char ? {} : { mathvariant: "normal" }, other);
  }

  command(name, before) {
    if (LETTERS.has(name)) return letterOf(LETTERS.get(name), this.alphabet);
    if (OPERATORS.has(name)) return operator(OPERATORS.get(name), name === "colon" ? { lspace: "0em", rspace: "0.2222em" } : {});
    if (DOTS.has(name)) return mathml("mi", { mathvariant: "normal" }, DOTS.get(name));
    if (DELIMITERS.has(name)) return delimiter(DELIMITERS.get(name), {});
    if (LARGE.has(name)) return large(name);
    if (FUNCTIONS.has(name)) return this.named(SPACED_NAMES.get(name) ?? name, LIMITS.has(name), before);
    if (SPACES.has(name)) return space(SPACES.get(name));
    if (ACCENTS.has(name) || UNDER_ACCENTS.has(name)) return this.accent(name);
    if (ARROWS.has(name)) return this.arrow(name);
    if (isAlphabet(name)) return this.inAlphabet(name);
    if (TEXTS.has(name)) return this.text(name, before);
    if (SIZES.test(`\\${name}`)) return this.sized(name);
    if (name === "left") return this.fenced();
    if (IGNORED.has(name)) return null;
    return COMMANDS[name] ? COMMANDS[name](this, name) : unknown(`\\${name}`);
  }

  /** A function's name, with a thin space to its neighbours but not to a bracket. */
  named(name, limits, before) {
    const next = this.peek();
    const tight = next === undefined || next === "(" || next === "[" || next === "\\left" || SIZES.test(next) || next === "}";
    const attributes = { lspace: before.length ? "0.1667em" : "0em", rspace: tight && next !== undefined ? "0em" : "0.1667em" };
    if (limits) attributes.movablelimits = "true";
    return Object.assign(operator(name, { form: "prefix", ...attributes }), { limits });
  }

  accent(name) {
    const base = this.argument();
    if (UNDER_ACCENTS.has(name)) {
      const under = mathml("munder", {}, base, operator(UNDER_ACCENTS.get(name), { stretchy: "true" }));
      return Object.assign(under, { limits: name !== "underline", always: true });
    }
    const [mark, stretchy] = ACCENTS.get(name);
    const over = mathml("mover", { accent: "true" }, base, operator(mark, { stretchy: String(stretchy) }));
    return Object.assign(over, { limits: name.startsWith("overb"), always: true });
  }

  arrow(name) {
    const below = this.option();
    const above = mathml("mpadded", { lspace: "0.4em", width: "+0.8em" }, this.argument());
    const shaft = operator(ARROWS.get(name), { stretchy: "true" });
    return below ? mathml("munderover", {}, shaft, below, above) : mathml("mover", {}, shaft, above);
  }

  inAlphabet(name) {
    const outer = this.alphabet;
    this.alphabet = name;
    if (name.length < 3 && this.peek() !== "{") return null;
    const inner = this.argument();
    this.alphabet = outer;
    return wordOf(inner, name);
  }

  text(name, before) {
    const star = name === "operatorname" && this.take("*");
    const text = this.raw();
    if (name === "operatorname") return this.named(text.replace(/\\[,;:! ]|[{}\s]/g, ""), star, before);
    if (name === "label") return null;
    const shown = text.replace(/\\([ ,&%$#_{}])/g, "$1").replaceAll("$", "").replace(/^ | $/g, "\u00a0");
    return mathml("mtext", { class: name === "tag" ? "tex-tag" : `tex-${name}` }, name === "tag" || name === "ref" ? `(${shown})` : shown);
  }

  /** \big( and its larger kin. */
  sized(name) {
    const token = this.peek() ?? "";
    this.at += 1;
    const size = { b: 1.2, B: 1.8 }[name[0]] + (name.includes("gg") ? 1.2 : 0);
    const form = name.endsWith("l") ? { form: "prefix" } : name.endsWith("r") ? { form: "postfix" } : {};
    const both = { stretchy: "true", symmetric: "true", minsize: `${size}em`, maxsize: `${size}em` };
    return operator(delimiterOf(token), { ...both, ...form });
  }

  /** \left( ... \middle| ... \right) */
  fenced() {
    const stretched = (form) => {
      const token = this.peek() ?? ".";
      this.at += 1;
      return token === "." ? mathml("mrow") : operator(delimiterOf(token), { stretchy: "true", symmetric: "true", form });
    };
    const nodes = [stretched("prefix"), ...this.row(() => false)];
    while (this.take("\\middle")) nodes.push(stretched("infix"), ...this.row(() => false));
    if (this.take("\\right")) nodes.push(stretched("postfix"));
    return mathml("mrow", {}, ...nodes);
  }
}

const STYLE_SWITCHES = {
  "\\displaystyle": { displaystyle: "true", scriptlevel: "0" }, "\\textstyle": { displaystyle: "false", scriptlevel: "0" },
  "\\scriptstyle": { displaystyle: "false", scriptlevel: "1" }, "\\scriptscriptstyle": { displaystyle: "false", scriptlevel: "2" },
};

function fraction(parser, name) {
  const fractionOf = mathml("mfrac", {}, parser.argument(), parser.argument());
  return name in STYLES ? mathml("mstyle", { displaystyle: STYLES[name], scriptlevel: "0" }, fractionOf) : fractionOf;
}

function binomial(parser, name) {
  const inner = mathml("mfrac", { linethickness: "0" }, parser.argument(), parser.argument());
  const row = mathml("mrow", {}, operator("(", { stretchy: "true" }), inner, operator(")", { stretchy: "true" }));
  return name in STYLES ? mathml("mstyle", { displaystyle: STYLES[name], scriptlevel: "0" }, row) : row;
}

function root(parser) {
  const degree = parser.option();
  const inner = parser.argument();
  return degree ? mathml("mroot", {}, inner, degree) : mathml("msqrt", {}, inner);
}

function over(parser, name) {
  const mark = parser.argument();
  return mathml(name === "underset" ? "munder" : "mover", {}, parser.argument(), mark);
}

function negated(parser) {
  const inner = parser.argument();
  const other = NEGATED.get(inner.textContent);
  return other ? operator(other) : mathml("mrow", { class: "tex-cancel" }, inner);
}

function modulo(parser, name) {
  const word = operator("mod", { form: "infix", lspace: "0.2222em", rspace: "0.2222em" });
  if (name === "bmod" || name === "mod") return word;
  const first = operator("mod", { form: "prefix", lspace: "0em", rspace: "0.3333em" });
  return mathml("mrow", {}, space(0.5), delimiter("(", {}), first, parser.argument(), delimiter(")", {}));
}

function coloured(parser, name) {
  parser.raw();
  return name === "textcolor" ? parser.argument() : null;
}

const within = (tag, attributes) => (parser) => mathml(tag, attributes, parser.argument());

const COMMANDS = {
  frac: fraction, dfrac: fraction, tfrac: fraction, cfrac: fraction, binom: binomial, dbinom: binomial, tbinom: binomial, sqrt: root,
  overset: over, underset: over, stackrel: over, not: negated, mod: modulo, bmod: modulo, pmod: modulo, color: coloured, textcolor: coloured,
  boxed: within("mrow", { class: "tex-boxed" }), fbox: within("mrow", { class: "tex-boxed" }), phantom: within("mphantom", {}),
  hphantom: within("mphantom", {}), vphantom: (parser) => mathml("mpadded", { width: "0" }, mathml("mphantom", {}, parser.argument())),
  cancel: within("mrow", { class: "tex-cancel" }), bcancel: within("mrow", { class: "tex-cancel" }),
  mathop: (parser) => Object.assign(mathml("mrow", {}, parser.argument()), { limits: true }),
  mathbin: within("mrow", {}), mathrel: within("mrow", {}), mathord: within("mrow", {}), mathopen: within("mrow", {}), mathclose: within("mrow", {}),
  substack: (parser) => {
    parser.take("{");
    const node = environment(parser, "substack");
    parser.take("}");
    return node;
  },
  begin: (parser) => {
    const name = parser.raw();
    return isEnvironment(name) ? environment(parser, name) : unknown(`\\begin{${name.slice(0, 40)}}`);
  },
  hspace: (parser) => space(Math.max(-3, Math.min(10, parseFloat(parser.raw()) || 0))),
  kern: () => null,
};

/** Small type has no space around its signs. */
function tight(node) {
  for (const sign of node.localName === "mo" ? [node] : node.querySelectorAll("mo")) {
    if (sign.hasAttribute("lspace")) continue;
    sign.setAttribute("lspace", "0em");
    sign.setAttribute("rspace", "0em");
  }
  return node;
}

function withScripts(base, { sub, sup, limits }, display) {
  const stacked = limits ?? (base.limits && (display || base.always || base.localName === "mo"));
  const tags = stacked ? ["munder", "mover", "munderover"] : ["msub", "msup", "msubsup"];
  if (limits && base.localName === "mo") base.setAttribute("movablelimits", "false");
  const tag = tags[sub && sup ? 2 : sup ? 1 : 0];
  return mathml(tag, {}, base, ...[sub, sup].filter(Boolean));
}

function large(name) {
  const node = operator(LARGE.get(name), INTEGRALS.has(name) ? {} : { movablelimits: "true" });
  return Object.assign(node, { limits: !INTEGRALS.has(name) });
}

function letterOf(char, alphabet) {
  const other = inAlphabet(char, alphabet);
  const upright = other !== char || !/^[α-ωϵϑϕϱϖℓ∂]$/u.test(char);
  return mathml("mi", upright ? { mathvariant: "normal" } : {}, other);
}

function delimiter(char, attributes) {
  const form = OPENING.has(char) ? { form: "prefix" } : CLOSING.has(char) ? { form: "postfix" } : { lspace: "0em", rspace: "0em" };
  return operator(char, { stretchy: "false", ...form, ...attributes });
}

function delimiterOf(token) {
  const name = token.slice(1);
  if (token[0] !== "\\") return token === "<" ? "⟨" : token === ">" ? "⟩" : token;
  return DELIMITERS.get(name) ?? OPERATORS.get(name) ?? name;
}

/** A character that is neither letter nor digit. */
function symbol(char, alphabet) {
  if (OPENING.has(char) || CLOSING.has(char) || char === "|" || char === "‖") return delimiter(char, {});
  if (char === "-") return operator("−");
  if (char === "*") return operator("∗");
  if (char === "/") return operator("/", { lspace: "0em", rspace: "0em", stretchy: "false" });
  if (char === ":") return operator(":", { lspace: "0.2778em", rspace: "0.2778em" });
  if (char === "~") return space(0.25);
  if (/[\p{Script=Greek}]/u.test(char)) return letterOf(char, alphabet);
  if (/[\p{L}\p{N}]/u.test(char)) return mathml("mtext", {}, char);
  return operator(char);
}

/** Several upright letters are one word: \mathrm{softmax}. */
function wordOf(node, name) {
  const letters = [...node.children];
  if (node.localName !== "mrow" || !/^(math)?(rm|sf|tt|bf|it)$/.test(name) || !letters.every((child) => child.localName === "mi")) return node;
  const italic = name.endsWith("it");
  return mathml("mi", italic ? { class: "tex-textit" } : { mathvariant: "normal" }, node.textContent);
}
