"use strict";
(function () {
  function number(value) {
    const size = Math.abs(value);
    for (const [limit, unit] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "K"]]) {
      if (size >= limit) return Number((value / limit).toPrecision(3)) + unit;
    }
    return String(Number(value.toPrecision(4)));
  }

  function element(parent, name, className, text) {
    const made = document.createElement(name);
    made.className = className;
    if (text !== undefined) made.textContent = text;
    parent.append(made);
    return made;
  }

  function nearest(places, x) {
    let low = 0, high = places.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (places[middle] < x) low = middle; else high = middle;
    }
    return x - places[low] < places[high] - x ? low : high;
  }

  function lineReadout(data, share) {
    const x = data.x.low + share.x * (data.x.high - data.x.low);
    const rows = [];
    let place = x;
    for (const line of data.series) {
      if (x < line.x[0] && rows.length) continue;
      const index = nearest(line.x, x), value = line.y[index];
      place = line.x[index];
      const text = line.text === "percent" ? (100 * value).toPrecision(3) + "%" : number(value);
      rows.push({ color: line.color, text: line.name + " " + text });
    }
    return { left: (place - data.x.low) / (data.x.high - data.x.low), head: number(place) + " " + data.label, rows };
  }

  function heatReadout(data, share) {
    const row = Math.min(data.values.length - 1, Math.floor(share.y * data.values.length));
    const column = Math.min(data.columns.length - 1, Math.floor(share.x * data.columns.length));
    const rows = [{ text: data.row + " " + row + ": " + data.values[row][column].toFixed(2) + data.unit }];
    return { left: (column + 0.5) / data.columns.length, head: number(data.columns[column]) + " " + data.columnUnit, rows };
  }

  function watch(figure) {
    const canvas = figure.querySelector(".canvas"), source = figure.querySelector('script[type="application/json"]');
    if (!canvas || !source) return;
    let data = null, cross = null, tip = null;

    function show(event) {
      data = data || JSON.parse(source.textContent);
      const box = canvas.getBoundingClientRect();
      const within = (value) => Math.max(0, Math.min(0.999999, value));
      const share = { x: within((event.clientX - box.left) / box.width), y: within((event.clientY - box.top) / box.height) };
      const found = data.kind === "heat" ? heatReadout(data, share) : lineReadout(data, share);
      cross = cross || element(canvas, "div", "cross");
      tip = tip || element(canvas, "div", "tip");
      cross.style.left = 100 * found.left + "%";
      tip.replaceChildren();
      element(tip, "b", "", found.head);
      for (const row of found.rows) {
        const line = element(tip, "div", "");
        if (row.color) element(line, "span", "dot " + row.color);
        line.append(row.text);
      }
      const place = found.left * box.width, width = tip.offsetWidth;
      const right = place + 12 + width <= box.width || place < width + 12;
      tip.style.left = Math.max(-30, Math.min(right ? place + 12 : place - width - 12, box.width - width + 12)) + "px";
    }

    function hide() {
      if (cross) { cross.remove(); tip.remove(); cross = tip = null; }
    }

    canvas.addEventListener("pointermove", show);
    canvas.addEventListener("pointerdown", show);
    canvas.addEventListener("pointerleave", hide);
  }

  document.querySelectorAll("figure.chart").forEach(watch);
})();
