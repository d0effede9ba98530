// The report on agreement, as tables.

import { el } from "./dom.js";
import { number, t } from "./i18n.js";

const share = (value) => (value === null || value === undefined ? "–" : `${number(100 * value)}%`);
const decimal = (value) => (value === null || value === undefined ? "–" : number(value, 2));
const within = ({ share: value, interval, of }) => (of ? `${share(value)} (${share(interval[0])}–${share(interval[1])}, n = ${of})` : "–");

function table(head, rows) {
  const line = (cells, tag) => el("tr", {}, ...cells.map((text) => el(tag, { text: String(text) })));
  const body = el("tbody", {}, ...rows.map((cells) => line(cells, "td")));
  return el("div", { class: "frame", tabindex: "0" }, el("table", {}, el("thead", {}, line(head, "th")), body));
}

const heading = (key) => el("h2", { text: t(key) });

export function reportView(report, back) {
  const button = el("button", { type: "button", class: "button", id: "back", text: t("back"), onclick: back });
  const labels = [[t("all"), report.all], ...Object.entries(report.labels)].filter(([, row]) => row.judged);
  if (!labels.length) return el("div", { class: "report" }, el("p", { text: t("none") }), el("p", {}, button));
  const people = Object.entries(report.people).map(([name, kinds]) => [name, kinds.keep ?? 0, kinds.drop ?? 0]);
  const pairs = report.pairs.map((pair) => [pair.people.join(" · "), pair.samples, share(pair.agreed), decimal(pair.kappa)]);
  const agreement = labels.map(([name, row]) => [name, row.judged, row.double, row.disputed, decimal(row.alpha)]);
  const critique = labels.filter(([, row]) => row.critique.samples)
    .map(([name, row]) => [name, within(row.critique.precision), within(row.critique.recall)]);
  const grades = Object.entries(report.all.grades).map(([grade, row]) => [grade, row.samples, share(row.kept / row.samples)]);
  return el("div", { class: "report" },
    heading("people"), table([t("person"), t("keep"), t("drop")], people),
    ...(pairs.length ? [el("p"), table([t("pair"), t("samples"), t("agreed"), t("kappa")], pairs)] : []),
    heading("report"), table([t("label"), t("judged"), t("double"), t("disputed"), t("alpha")], agreement),
    ...(critique.length ? [heading("critique"), el("p", { class: "quiet", text: t("critiqueHint") }),
      table([t("label"), t("precision"), t("recall")], critique), el("p"),
      table([t("grade"), t("samples"), t("keptShare")], grades)] : []),
    el("p"), button);
}
