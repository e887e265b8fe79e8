// Small drawings, each with the words for those who do not see it.

import { el, put, set, svg } from "./dom.js";
import { absolute, duration, many } from "./format.js";
import { outcomeLook } from "./words.js";

const SLOTS = 50;
const STEP = 6;
const WIDTH = SLOTS * STEP;
const HEIGHT = 22;
// Height and kind tell what the colour tells.
const SHAPES = {
  ran: [4, 18], running: [4.7, 16.6], waiting: [12.7, 8.6], failed: [0, 22], lost: [0, 22],
  missed: [9, 13], skipped_overlap: [12, 10], paused: [17, 5],
};
// Notches: what is broken reads so without any colour, and what is lost is not what failed.
const NOTCHES = { failed: [9], lost: [4, 14] };

/** The outcomes of the latest slots, the newest on the right. */
export function strip() {
  const title = svg("title");
  const cells = svg("g");
  const node = svg(
    "svg",
    { class: "strip", role: "img", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none" },
    title,
    cells,
  );
  let drawn = "";
  return {
    node,
    update(slots) {
      const fresh = JSON.stringify(slots.map((one) => [one.slot, one.outcome, one.count]));
      if (fresh === drawn) return;
      drawn = fresh;
      const latest = slots.slice(-SLOTS);
      set(node, "aria-label", stripWords(latest));
      put(title, stripWords(latest));
      cells.replaceChildren(...latest.map((one, n) => bar(one, n + SLOTS - latest.length)));
    },
  };
}

/** What the bars of a strip mean: each drawn as it is there. */
export function legend() {
  const entries = Object.keys(SHAPES).map((outcome) => {
    const drawn = svg("svg", { class: "strip", viewBox: `-0.7 -0.7 6 ${HEIGHT + 1.4}` }, shape(outcome, 0));
    return el("li", {}, drawn, el("span", { text: outcomeLook(outcome)[2] }));
  });
  return el("ul", { class: "legend", "aria-hidden": "true" }, ...entries);
}

function shape(outcome, x) {
  const [top, high] = SHAPES[outcome] ?? [12, 10];
  const group = svg("g", { "data-outcome": outcome });
  group.append(svg("rect", { x, y: top, width: STEP - 1.5, height: high, rx: 1 }));
  for (const y of NOTCHES[outcome] ?? []) {
    group.append(svg("rect", { class: "notch", x, y, width: STEP - 1.5, height: 3 }));
  }
  return group;
}

function bar(one, n) {
  const group = shape(one.outcome, n * STEP);
  const [, , word] = outcomeLook(one.outcome);
  const took = one.duration_ms === null || one.duration_ms === undefined ? "" : `, ${duration(one.duration_ms)}`;
  const count = one.count > 1 ? ` and ${one.count - 1} more` : "";
  const error = one.error ? `\n${one.error}` : "";
  group.append(
    svg("title", { text: `${absolute(Date.parse(one.slot))}${count}: ${word}${took}${error}` }),
  );
  return group;
}

function stripWords(slots) {
  if (!slots.length) return "No slot has an outcome yet";
  const counts = new Map();
  for (const { outcome, count } of slots) {
    counts.set(outcome, (counts.get(outcome) ?? 0) + (count ?? 1));
  }
  const told = [...counts].map(([outcome, count]) => `${count} ${outcomeLook(outcome)[2]}`);
  const last = outcomeLook(slots.at(-1).outcome)[2];
  return `The last ${many(slots.length, "slot")}: ${told.join(", ")}. The latest ${last}.`;
}

/** How long the latest runs took, or how deep a queue was ("depth"); the dot is the last. */
export function sparkline(kind = "durations") {
  const area = svg("path", { class: "area" });
  const line = svg("path", { class: "line" });
  const dot = svg("circle", { r: 2.2, class: "dot" });
  const node = svg(
    "svg",
    { class: "spark", role: "img", viewBox: "0 0 100 24", width: 100, height: 24 },
    area, line, dot,
  );
  let drawn = "";
  return {
    node,
    update(times) {
      const fresh = times.join(" ");
      if (fresh === drawn && node.hasAttribute("aria-label")) return;
      drawn = fresh;
      set(node, "aria-label", kind === "depth" ? depthWords(times) : sparkWords(times));
      const top = Math.max(...times, 1e-9);
      const step = times.length > 1 ? 94 / (times.length - 1) : 0;
      const points = times.map((ms, n) => [
        (3 + n * step).toFixed(1),
        (21 - (18 * ms) / top).toFixed(1),
      ]);
      const path = points.map((point) => point.join(" ")).join("L");
      set(line, "d", points.length > 1 ? `M${path}` : "M0 0");
      set(area, "d", points.length > 1 ? `M3 23L${path}L97 23Z` : "M0 0");
      const last = points.length > 1 ? points.at(-1) : null; // one run alone makes no line
      set(dot, "visibility", last ? null : "hidden");
      if (last) {
        set(dot, "cx", last[0]);
        set(dot, "cy", last[1]);
      }
    },
  };
}

function sparkWords(times) {
  if (!times.length) return "No run has ended yet";
  const sorted = [...times].sort((a, b) => a - b);
  const median = sorted[Math.floor(sorted.length / 2)];
  return (
    `Durations of ${many(times.length, "run")}: the last ${duration(times.at(-1))}, ` +
    `the median ${duration(median)}, the longest ${duration(sorted.at(-1))}`
  );
}

function depthWords(depths) {
  if (!depths.length) return "Nothing is known of its depth yet";
  return `Depth while this page is open: now ${depths.at(-1)}, at most ${Math.max(...depths)}`;
}

/** How far a run is; a bar that only moves to and fro if it does not say. */
export function progress() {
  const bar = el("progress", { max: 100 });
  const text = el("span", { class: "num" });
  const node = el("span", { class: "progress" }, bar, text);
  return {
    node,
    update(told, label) {
      const percent = told && Number.isFinite(told.percent) ? told.percent : null;
      set(bar, "aria-label", label);
      set(bar, "value", percent === null ? null : Math.max(0, Math.min(100, percent)));
      put(text, percent === null ? "" : `${Math.round(percent)} %`);
      set(node, "title", told?.message ?? null);
    },
  };
}
