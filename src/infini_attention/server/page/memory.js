// What the memory of the session holds: six metrics, a heat map of its heads, and the curve of forgetting.

import { get, sessionPath } from "./api.js";
import { lineChart } from "./charts.js";
import { $, attempt, bytes, complain, count, el, percent, ratio } from "./dom.js";

const HEADS = [
  ["gate", "Gate: weight of the memory, per query head"],
  ["memory_share", "Share of the output that the memory gives, per query head"],
  ["utilisation", "Utilisation: effective rank by key size, per key/value head"],
];

export function startMemory(page) {
  let shown = null; // what is on the screen
  let asked = 0;
  let stopping = new AbortController();

  async function look(probe, signal) {
    const { id, infini } = page.info;
    const number = ++asked;
    const memory = infini.tokens_seen ? await get(sessionPath(id, `/memory?probe=${probe}`), { signal }) : null;
    if (number === asked && page.info?.id === id) show((shown = memory));
  }

  function show(memory) {
    $("probe").hidden = memory === null;
    $("memory-about").textContent = describe(memory);
    $("metrics").replaceChildren(...(memory ? cards(memory) : []));
    $("heat").replaceChildren(
      ...(memory ? HEADS.map(([name, title]) => heatMap(memory.layers, name, title)).filter(Boolean) : []),
    );
    draw();
  }

  function draw() {
    const curve = (shown?.metrics.memory_update_efficiency ?? []).filter((place) => place.cosine !== null);
    const points = (name) =>
      curve.filter((place) => place[name] !== null).map((place) => [place.segments, place[name]]);
    if (curve.length < 2) {
      $("retention-chart").replaceChildren();
      return;
    }
    lineChart($("retention-chart"), {
      title: "What is still read back, by the segments since it was written",
      x: "segments",
      format: (value) => value.toFixed(2),
      log: true,
      most: 1,
      series: [
        { name: "what was written", kind: "ours", points: points("cosine") },
        { name: "another value", kind: "other", points: points("control").map(([x, y]) => [x, Math.max(0, y)]) },
      ],
    });
  }

  $("probe").addEventListener("click", () => {
    stopping = new AbortController();
    $("probe-stop").hidden = false;
    $("memory-about").textContent = "A fork is reading …";
    attempt($("probe"), () => look(true, stopping.signal)).finally(() => {
      $("probe-stop").hidden = true;
      $("memory-about").textContent = describe(shown);
    });
  });
  $("probe-stop").addEventListener("click", () => stopping.abort());
  new ResizeObserver(draw).observe($("memory"));
  return {
    changed(another) {
      if (another) stopping.abort();
      if (!page.info) return;
      const { id, infini } = page.info;
      if (shown?.id === id && shown.metrics.sequence_length.tokens_seen === infini.tokens_seen) return; // it holds the same
      look(false).catch((error) => (show((shown = null)), complain(error)));
    },
  };
}

function describe(memory) {
  if (!memory) return "Nothing was read yet.";
  if (memory.probe_tokens)
    return `After ${count(memory.probe_tokens)} tokens that a fork has read; the session stayed as it is.`;
  return "As the state shows it. A probe lets a fork read on, which shows the memory at work.";
}

function cards({ metrics, full_kv_bytes }) {
  const {
    memory_complexity: memory,
    sequence_length: length,
    compression,
    throughput,
    attention_quality: quality,
  } = metrics;
  const curve = metrics.memory_update_efficiency.filter((place) => place.cosine !== null);
  const same = {
    true: `the same after ${memory.at_tokens.map(count).join(" and ")} tokens`,
    false: "NOT the same all along",
  };
  const recalled = quality.asked ? percent(quality.recall) : null;
  const list = [
    [
      "Memory complexity",
      bytes(memory.state_bytes),
      same[memory.constant] ?? `a full KV cache: ${bytes(full_kv_bytes)}`,
    ],
    [
      "Sequence length",
      count(length.tokens_seen),
      length.verified ? `a key was recalled over ${count(length.verified)}` : "tokens read",
    ],
    ["Compression", ratio(compression.with_window), `${ratio(compression.without_window)} without the window`],
    [
      "Throughput",
      throughput.tokens_per_second ? `${count(throughput.tokens_per_second)} tokens/s` : "–",
      slope(throughput),
    ],
    [
      "Attention quality",
      recalled ?? percent(quality.memory_share),
      recalled
        ? `of ${quality.asked} questions, ${percent(quality.recall_memory_off)} with the memory off; it gives ${percent(quality.memory_share)} of the output`
        : quality.memory_share === null
          ? "shown by a probe"
          : "of the output comes from the memory",
    ],
    [
      "Memory update efficiency",
      curve.length ? curve.at(-1).cosine.toFixed(2) : "–",
      curve.length
        ? `read back after ${count(curve.at(-1).segments)} segments, ${curve[0].cosine.toFixed(2)} after ${count(curve[0].segments)}`
        : "shown by a probe",
    ],
  ];
  return list.map(([name, value, about]) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, el("strong", {}, value), el("span", { class: "quiet" }, about))),
  );
}

function slope({ slope, slope_se, tokens_per_second }) {
  if (!tokens_per_second) return "shown by a probe";
  return slope === null ? "" : `${slope < 0 ? "" : "+"}${percent(slope)} (± ${percent(slope_se)}) on the way`;
}

/** A table whose cells are as dark as their share is large; null where nothing is known. */
function heatMap(layers, name, title) {
  const known = layers.filter((layer) => layer[name] !== null);
  if (!known.length) return null;
  const width = Math.max(...known.map((layer) => layer[name].length));
  const head = el(
    "tr",
    {},
    el("th", { scope: "col" }, "layer"),
    Array.from({ length: width }, (_, i) => el("th", { scope: "col" }, String(i))),
  );
  const rows = known.map((layer) =>
    el("tr", {}, el("th", { scope: "row" }, String(layer.layer)), layer[name].map(cell)),
  );
  const table = el("table", { "aria-label": title }, el("thead", {}, head), el("tbody", {}, rows));
  return el(
    "figure",
    {},
    el("figcaption", {}, title),
    el("div", { class: "heat", tabindex: "0", role: "region", "aria-label": title }, table),
  );
}

function cell(share) {
  if (share === null) return el("td", {}, "–");
  const element = el("td", {}, share >= 0.995 ? "1" : share.toFixed(2).slice(1));
  element.style.setProperty("--share", share);
  return element;
}
