// Small charts over time. Each says in words what it shows, for those who do not see it.

import { h, s } from "./dom.js";
import { clock } from "./format.js";

const WIDTH = 320;
const HEIGHT = 110;

/** Bars stacked from the bottom. `series` is `[{name, kind, values}]`, one value a bin. */
export function stackedBars({ title, said, series, from, to, format }) {
  const bins = series[0].values.length;
  const totals = Array.from({ length: bins }, (_, i) => series.reduce((all, one) => all + one.values[i], 0));
  const top = Math.max(1, ...totals);
  const step = WIDTH / bins;
  const bars = [];
  for (let i = 0; i < bins; i++) {
    let y = HEIGHT;
    for (const { kind, name, values } of series) {
      const height = (values[i] / top) * HEIGHT;
      if (height === 0) continue;
      y -= height;
      bars.push(s("rect", { class: `fill ${kind}`, x: i * step + 0.5, y, width: Math.max(step - 1, 0.5), height },
        s("title", {}, `${format(values[i])} ${name}`)));
    }
  }
  return figure({ title, said, series, from, to, top: format(top), marks: bars });
}

/** Lines; a null leaves a gap. `top` fixes the scale. */
export function lines({ title, said, series, from, to, format, top }) {
  const highest = top ?? Math.max(...series.flatMap((one) => one.values.filter((v) => v !== null)), 0);
  const scale = highest > 0 ? highest : 1;
  const marks = series.flatMap(({ kind, name, values }) => {
    const step = WIDTH / Math.max(1, values.length);
    const points = values.map((value, i) => value === null ? null : [(i + 0.5) * step, HEIGHT - (Math.min(value, scale) / scale) * HEIGHT, value]);
    let path = "";
    points.forEach((point, i) => {
      if (point !== null) path += `${i > 0 && points[i - 1] !== null ? "L" : "M"}${point[0].toFixed(1)} ${point[1].toFixed(1)}`;
    });
    const dots = points.filter(Boolean).map(([x, y, value]) =>
      s("circle", { class: `dot ${kind}`, cx: x, cy: y, r: 2 }, s("title", {}, `${name}: ${format(value)}`)));
    return [s("path", { class: `stroke ${kind}`, d: path }), ...dots];
  });
  return figure({ title, said, series, from, to, top: format(scale), marks });
}

function figure({ title, said, series, from, to, top, marks }) {
  const drawing = s("svg", { viewBox: `0 -4 ${WIDTH} ${HEIGHT + 8}`, preserveAspectRatio: "none", role: "img", "aria-label": `${title}. ${said}` },
    [0, 0.5, 1].map((part) => s("line", { class: "grid", x1: 0, x2: WIDTH, y1: HEIGHT * part, y2: HEIGHT * part })), marks);
  return h("figure", { class: "chart card" },
    h("figcaption", {}, h("b", {}, title), h("span", { class: "muted" }, said)),
    h("div", { class: "plot" }, h("span", { class: "top", "aria-hidden": "true" }, top), drawing),
    h("div", { class: "ends", "aria-hidden": "true" }, h("span", {}, clock(from)), h("span", {}, clock(to))),
    series.length > 1 && h("ul", { class: "legend" }, series.map(({ name, kind }) => h("li", {}, h("i", { class: `key ${kind}` }), name))));
}

/** A line of bars without axes, for a cell of a table. */
export function spark(values) {
  const top = Math.max(1, ...values);
  return s("svg", { class: "spark", viewBox: `0 0 ${values.length * 4} 20`, preserveAspectRatio: "none", "aria-hidden": "true" },
    values.map((value, i) => s("rect", { x: i * 4, width: 3, y: 20 - (value / top) * 20, height: (value / top) * 20 })));
}
