// Lines over tokens or segments, drawn at the width that there is, so that text keeps its size on a phone.

import { el, short, svg } from "./dom.js";

const HEIGHT = 190;
const EDGE = { left: 8, right: 8, top: 26, bottom: 34 };

/**
 * A picture with a legend, in place of what `box` held.
 *
 * `series` are `{ name, kind, points }`: `kind` is "ours" or "other", points are [x, y] from left to right.
 * `format` writes a y, `log` spaces x by powers of two, `most` is the top of the picture if it is not that of the points.
 */
export function lineChart(box, { title, x, format, series, log = false, most }) {
  const width = Math.max(260, box.clientWidth);
  const points = series.flatMap((line) => line.points);
  const place = log ? Math.log2 : (value) => value;
  const [left, right] = [log ? Math.min(...points.map(([px]) => px)) : 0, Math.max(...points.map(([px]) => px))];
  const top = most ?? (Math.max(...points.map(([, py]) => py)) || 1);
  const span = place(right) - place(left) || 1;
  const across = (px) => EDGE.left + ((place(px) - place(left)) / span) * (width - EDGE.left - EDGE.right);
  const down = (py) => HEIGHT - EDGE.bottom - (py / top) * (HEIGHT - EDGE.top - EDGE.bottom);
  const picture = svg("svg", {
    viewBox: `0 0 ${width} ${HEIGHT}`,
    width,
    height: HEIGHT,
    role: "img",
    "aria-label": spoken(title, series, format),
  });
  const words = []; // which no line may cross out
  for (const share of [0, 0.5, 1]) {
    const y = down(top * share);
    picture.append(svg("line", { class: "grid", x1: EDGE.left, x2: width - EDGE.right, y1: y, y2: y }));
    if (share) words.push(svg("text", { x: EDGE.left, y: y - 4 }, format(top * share)));
  }
  words.push(
    svg("text", { x: EDGE.left, y: HEIGHT - 18 }, short(left)),
    svg("text", { x: width / 2, y: HEIGHT - 18, "text-anchor": "middle" }, x),
    svg("text", { x: width - EDGE.right, y: HEIGHT - 18, "text-anchor": "end" }, short(right)),
  );
  for (const { kind, points: line } of series) {
    const path = line.map(([px, py], i) => `${i ? "L" : "M"}${across(px).toFixed(1)} ${down(py).toFixed(1)}`).join("");
    picture.append(svg("path", { class: `line ${kind}`, d: path }));
    if (line.length)
      picture.append(
        svg("circle", { class: `end ${kind}`, cx: across(line.at(-1)[0]), cy: down(line.at(-1)[1]), r: 3.5 }),
      );
  }
  picture.append(...words);
  const legend = series.map(({ name, kind, points: line }) =>
    el("li", { class: kind }, name, " ", el("b", {}, line.length ? format(line.at(-1)[1]) : "–")),
  );
  box.replaceChildren(el("figure", {}, el("figcaption", {}, title, el("ul", { class: "legend" }, legend)), picture));
}

function spoken(title, series, format) {
  const ends = series.map(
    ({ name, points }) => `${name}: ${points.length ? format(points.at(-1)[1]) : "nothing"} at the end`,
  );
  return `${title}. ${ends.join("; ")}.`;
}
