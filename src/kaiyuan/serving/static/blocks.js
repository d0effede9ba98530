// Markdown's blocks: text to a list of {type, source, ...}. What is inside lists and quotes is parsed when it is shown.

const BLANK = /^\s*$/;
const FENCE = /^( {0,3})(`{3,}|~{3,})[ \t]*([^`\n]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*))?$/;
const RULE = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(?:([ \t]+)(.*)|)$/;
const INDENTED = /^(?: {4}|\t)/;
const DELIMITERS = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;
const UNDERLINE = /^ {0,3}(={2,}|-{3,})[ \t]*$/;
const MATH_OPEN = /^ {0,3}(\$\$|\\\[|\\begin\{(equation|align|gather|multline|alignat|eqnarray)(\*?)\})/;
const INDEX = /^ {0,3}(\d{1,9})/;

/** The blocks of `text`, in order; the `source` of each is its part of `text`. */
export function parseBlocks(text) {
  const lines = text.split("\n");
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (BLANK.test(lines[at])) {
      at += 1;
      continue;
    }
    const block = readBlock(lines, at);
    block.source = lines.slice(at, block.next).join("\n");
    block.line = at;
    blocks.push(block);
    at = block.next;
  }
  return blocks;
}

function readBlock(lines, at) {
  return (
    readFence(lines, at) ?? readMath(lines, at) ?? readHeading(lines, at) ?? readRule(lines, at) ?? readQuote(lines, at) ??
    readList(lines, at) ?? readTable(lines, at) ?? readIndented(lines, at) ?? readParagraph(lines, at)
  );
}

function readFence(lines, at) {
  const [, indent, fence, info] = FENCE.exec(lines[at]) ?? [];
  if (!fence) return null;
  const closing = new RegExp(`^ {0,3}${fence[0]}{${fence.length},}[ \\t]*$`);
  let end = at + 1;
  while (end < lines.length && !closing.test(lines[end])) end += 1;
  const margin = new RegExp(`^ {0,${indent.length}}`);
  const code = lines.slice(at + 1, end).map((line) => (indent ? line.replace(margin, "") : line)).join("\n");
  return { type: "code", code, language: info.trim().split(/[\s{:,]/)[0].toLowerCase(), next: Math.min(end + 1, lines.length) };
}

/** A formula on lines of its own. It ends at its closing mark; a blank line or text behind it makes it no formula. */
function readMath(lines, at) {
  const [whole, mark, name, star] = MATH_OPEN.exec(lines[at]) ?? [];
  if (!whole) return null;
  const close = name ? `\\end{${name}${star}}` : mark === "$$" ? "$$" : "\\]";
  const collected = [];
  for (let end = at; end < lines.length && !BLANK.test(lines[end]); end += 1) {
    const line = end === at ? lines[at].slice(whole.length) : lines[end];
    const found = line.indexOf(close);
    collected.push(found < 0 ? line : line.slice(0, found));
    if (found < 0) continue;
    if (!/^[\s.,;]*$/.test(line.slice(found + close.length))) return null;
    const inner = collected.join("\n") + line.slice(found + close.length).trim();
    return { type: "math", tex: name ? `\\begin{${name}${star}}${inner}${close}` : inner, next: end + 1 };
  }
  return null;
}

function readHeading(lines, at) {
  const [, marks, content] = HEADING.exec(lines[at]) ?? [];
  if (!marks) return null;
  const trimmed = (content ?? "").trimEnd();
  return { type: "heading", level: marks.length, content: trimmed.replace(/(^|[ \t])#+$/, "").trimEnd(), next: at + 1 };
}

function readRule(lines, at) {
  return RULE.test(lines[at]) ? { type: "rule", next: at + 1 } : null;
}

/** Lines that begin with ">", and lines that go on with their paragraph. */
function readQuote(lines, at) {
  if (!QUOTE.test(lines[at])) return null;
  const inner = [];
  let end = at;
  for (; end < lines.length; end += 1) {
    if (QUOTE.test(lines[end])) inner.push(lines[end].replace(QUOTE, ""));
    else if (BLANK.test(lines[end]) || BLANK.test(inner.at(-1)) || interrupts(lines, end)) break;
    else inner.push(lines[end]);
  }
  return { type: "quote", inner: inner.join("\n"), next: end };
}

function readList(lines, at) {
  const first = itemAt(lines[at]);
  if (!first || RULE.test(lines[at])) return null;
  const items = [];
  let end = at;
  let loose = false;
  while (end < lines.length) {
    const mark = itemAt(lines[end]);
    if (!mark || mark.kind !== first.kind || RULE.test(lines[end])) break;
    const item = readItem(lines, end, mark);
    items.push(item.inner);
    end = item.next;
    let next = end;
    while (next < lines.length && BLANK.test(lines[next])) next += 1;
    const more = next < lines.length && itemAt(lines[next])?.kind === first.kind && !RULE.test(lines[next]);
    loose ||= item.loose || (more && next > end);
    if (!more) break;
    end = next;
  }
  return { type: "list", ordered: first.ordered, start: first.start, loose, items, next: end };
}

/** What begins a list item: its kind (items of one list have the same), and how far its content is indented. */
function itemAt(line) {
  const [, indent, mark, gap, content] = ITEM.exec(line) ?? [];
  if (mark === undefined) return null;
  const ordered = mark.length > 1;
  const wide = gap && gap.length <= 4 ? gap.length : 1;
  const text = gap && gap.length > 4 ? gap.slice(1) + content : (content ?? "");
  const start = ordered ? Number(INDEX.exec(line)[1]) : 1;
  return { kind: mark.at(-1), ordered, start, indent: indent.length, width: indent.length + mark.length + wide, text };
}

/** One item's lines without their indent. Two columns are enough for what belongs to it: models often write so. */
function readItem(lines, at, mark) {
  const inner = [mark.text];
  const least = Math.min(mark.width, mark.indent + 2);
  let end = at + 1;
  let gap = false;
  let loose = false;
  for (; end < lines.length; end += 1) {
    const line = lines[end];
    if (BLANK.test(line)) {
      gap = true;
      inner.push("");
      continue;
    }
    const belongs = line.search(/\S/) >= least;
    if (!belongs && (gap || itemAt(line) || interrupts(lines, end))) break;
    loose ||= gap && !itemAt(line.slice(least));
    inner.push(unindented(line, mark.width));
    gap = false;
  }
  while (inner.length > 1 && BLANK.test(inner.at(-1))) {
    inner.pop();
    end -= 1;
  }
  return { inner: inner.join("\n"), next: end, loose };
}

function unindented(line, width) {
  let cut = 0;
  while (cut < width && line[cut] === " ") cut += 1;
  return cut === 0 && line[0] === "\t" ? line.slice(1) : line.slice(cut);
}

function readTable(lines, at) {
  const delimiters = lines[at + 1];
  if (!lines[at].includes("|") || !delimiters?.includes("|") || !DELIMITERS.test(delimiters)) return null;
  const head = cellsOf(lines[at]);
  const sides = cellsOf(delimiters).map(sideOf);
  if (head.length !== sides.length) return null;
  const rows = [];
  let end = at + 2;
  for (; end < lines.length && !BLANK.test(lines[end]) && !interrupts(lines, end); end += 1) rows.push(cellsOf(lines[end]));
  return { type: "table", head, sides, rows, next: end };
}

function sideOf(cell) {
  const left = cell.startsWith(":");
  const right = cell.endsWith(":");
  return right ? (left ? "center" : "right") : "";
}

/** A row's cells: split at bars that are neither escaped nor inside a code span. */
function cellsOf(line) {
  const inner = line.trim().replace(/^\|/, "").replace(/([^\\]|^)\|$/, "$1");
  const cells = [""];
  let code = false;
  for (let at = 0; at < inner.length; at += 1) {
    if (inner[at] === "\\" && inner[at + 1] === "|") {
      cells[cells.length - 1] += "|";
      at += 1;
      continue;
    }
    if (inner[at] === "`") code = !code;
    if (inner[at] === "|" && !(code && inner.indexOf("`", at) > 0)) cells.push("");
    else cells[cells.length - 1] += inner[at];
  }
  return cells.map((cell) => cell.trim());
}

function readIndented(lines, at) {
  if (!INDENTED.test(lines[at])) return null;
  let end = at;
  while (end < lines.length && (INDENTED.test(lines[end]) || BLANK.test(lines[end]))) end += 1;
  while (BLANK.test(lines[end - 1])) end -= 1;
  const code = lines.slice(at, end).map((line) => line.replace(INDENTED, "")).join("\n");
  return { type: "code", code, language: "", next: end };
}

function readParagraph(lines, at) {
  let end = at + 1;
  for (; end < lines.length && !BLANK.test(lines[end]); end += 1) {
    const [, marks] = UNDERLINE.exec(lines[end]) ?? [];
    const content = lines.slice(at, end).join("\n");
    if (marks) return { type: "heading", level: marks[0] === "=" ? 1 : 2, content, next: end + 1 };
    if (interrupts(lines, end)) break;
  }
  return { type: "paragraph", content: lines.slice(at, end).join("\n"), next: end };
}

/** Whether a line ends the paragraph before it: a numbered item does so only if its number is 1. */
function interrupts(lines, at) {
  const line = lines[at];
  if (FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line)) return true;
  const item = itemAt(line);
  if (item) return item.text !== "" && (!item.ordered || item.start === 1);
  return MATH_OPEN.test(line) && readMath(lines, at) !== null;
}
