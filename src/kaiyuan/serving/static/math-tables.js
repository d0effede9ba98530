// Environments of rows and columns: matrices, cases, aligned equations.

import { mathml, rowOf } from "./math.js";

const FENCES = {
  matrix: ["", ""], pmatrix: ["(", ")"], bmatrix: ["[", "]"], Bmatrix: ["{", "}"], vmatrix: ["|", "|"], Vmatrix: ["‖", "‖"], smallmatrix: ["", ""],
  cases: ["{", ""], rcases: ["", "}"], dcases: ["{", ""], array: ["", ""], substack: ["", ""], aligned: ["", ""], align: ["", ""], alignedat: ["", ""],
  alignat: ["", ""], split: ["", ""], eqnarray: ["", ""], gather: ["", ""], gathered: ["", ""], multline: ["", ""], equation: ["", ""],
};
const ALIGNED = new Set("aligned align alignedat alignat split eqnarray".split(" "));
const CENTERED = new Set("gather gathered multline equation".split(" "));
const MOST_CELLS = 4000;

export function isEnvironment(name) {
  return plain(name) in FENCES;
}

function plain(name) {
  return name.replace(/\*$/, "");
}

/** The table up to \end{name}, or up to the closing brace of \substack. */
export function environment(parser, name) {
  const kind = plain(name);
  const columns = kind === "array" || kind.startsWith("alignat") || kind === "alignedat" ? parser.raw() : "";
  const rows = readRows(parser);
  if (parser.take("\\end")) parser.raw();
  if (rows.length === 1 && rows[0].length === 1 && CENTERED.has(kind)) return rowOf(rows[0][0]);
  const table = mathml("mtable", attributesOf(kind, columns), ...rows.map((cells) => rowElement(cells, kind)));
  const [left, right] = FENCES[kind];
  if (!left && !right) return table;
  const fence = (char, form) => (char ? [mathml("mo", { stretchy: "true", symmetric: "true", form }, char)] : []);
  return mathml("mrow", {}, ...fence(left, "prefix"), table, ...fence(right, "postfix"));
}

function readRows(parser) {
  const rows = [[]];
  for (let cells = 0; cells < MOST_CELLS; cells += 1) {
    while (parser.take("\\hline")) continue;
    rows.at(-1).push(parser.row(() => false));
    if (parser.take("&")) continue;
    if (!parser.take("\\\\") && !parser.take("\\cr")) break;
    if (parser.peek() === "[") parser.option();
    rows.push([]);
  }
  const last = rows.at(-1);
  if (rows.length > 1 && last.length === 1 && last[0].length === 0) rows.pop();
  return rows;
}

function attributesOf(kind, columns) {
  const classes = [`tex-${ALIGNED.has(kind) ? "aligned" : CENTERED.has(kind) ? "gathered" : kind.endsWith("cases") ? "cases" : kind}`];
  const letters = columns.replace(/[^lcr]/g, "");
  if (/^l+$/.test(letters)) classes.push("tex-left");
  if (/^r+$/.test(letters)) classes.push("tex-right");
  const display = ALIGNED.has(kind) || CENTERED.has(kind) || kind === "dcases";
  return { class: classes.join(" "), displaystyle: display ? "true" : "false" };
}

/** In aligned equations an empty row before a cell's first sign gives the sign its space on the left. */
function rowElement(cells, kind) {
  const aligned = ALIGNED.has(kind);
  const cell = (nodes, index) => mathml("mtd", {}, ...(aligned && index % 2 ? [mathml("mrow", {}, mathml("mrow"), ...nodes)] : nodes));
  return mathml("mtr", {}, ...cells.map(cell));
}
