// The schedules: whether each does its work, and what can be done.

import { allowed, scheduleActions } from "../actions.js";
import { cell, el, keyed, name, put, set, show, table } from "../dom.js";
import { duration, many, moment, scheduleText } from "../format.js";
import { legend, sparkline, strip } from "../graphics.js";
import { ageOf } from "../parts.js";
import { badge, outcomeLook, standingLook } from "../words.js";

export function schedules() {
  const { node: sheet, body } = table("Schedules", [
    ["Task", "w-23"], ["Last 50 slots", "w-20"], ["Duration", "w-spark"], ["Last run"], ["Next slot", "w-when"],
    ["Failures", "right w-count"], ...(allowed() ? [["", "w-two"]] : []),
  ]);
  set(sheet, "class", "cards schedules");
  const summary = el("p", { class: "sub" });
  const age = ageOf("schedules");
  const panel = el("div", { class: "panel" }, age.node, sheet);
  const node = el(
    "section",
    {},
    el("div", { class: "title" }, el("h1", { text: "Schedules" }), summary, legend()),
    panel,
  );
  return {
    title: "Schedules",
    node,
    update(state) {
      const all = state.schedules ?? [];
      age.update(state, panel);
      show(sheet, all.length);
      const scheduled = all.filter((one) => one.schedule !== null);
      const off = all.length - scheduled.length;
      const counted = `${many(scheduled.length, "task")} on a schedule${off ? `, ${off} without` : ""}`;
      put(summary, state.schedules && counted);
      keyed(body, [...scheduled, ...all.filter((one) => one.schedule === null)], (one) => one.name, row);
    },
  };
}

export const placeOf = (task) => `#/schedules/${encodeURIComponent(task)}`;

function row() {
  const link = el("a", { class: "name" });
  const stands = badge();
  const said = el("span", { class: "faint" });
  const note = el("p", { class: "note" });
  const slots = strip();
  const spark = sparkline();
  const took = el("span", { class: "num faint took" });
  const last = lastRun();
  const next = nextSlot();
  const failures = el("span", { class: "num" });
  const actions = scheduleActions();
  const node = el(
    "tr",
    {},
    el("th", { scope: "row", class: "who" }, el("span", { class: "stack" }, el("span", { class: "line" }, link, stands.node), said, note)),
    cell("Last 50 slots", "strip-cell", slots.node),
    cell("Duration", "spark-cell", spark.node, took),
    cell("Last run", "last-cell", last.node),
    cell("Next slot", "next-cell", next.node),
    cell("Failures in a row", "right fails-cell", failures),
    allowed() ? cell("", "right", actions.node) : null,
  );
  return {
    node,
    update(one) {
      name(link, one.name);
      set(link, "href", placeOf(one.name));
      stands.update(standingLook(one));
      put(said, scheduleText(one.schedule));
      put(note, one.pause?.note ? `“${one.pause.note}”, ${one.pause.by}` : "");
      show(note, one.pause?.note);
      slots.update(one.strip);
      spark.update(one.durations_ms);
      put(took, one.durations_ms.length ? duration(one.durations_ms.at(-1)) : "");
      last.update(one.last);
      next.update(one);
      put(failures, one.failures || "0");
      set(failures, "class", one.failures ? "num bad-text" : "num faint");
      actions.update(one);
    },
  };
}

/** What became of the latest slot, and when. */
export function lastRun() {
  const became = badge();
  const when = moment();
  const error = el("span", { class: "error clip" });
  const node = el("span", { class: "stack" }, el("span", { class: "line" }, became.node, when.node), error);
  return {
    node,
    update(last) {
      show(node.firstChild, last);
      show(error, last?.error);
      if (!last) return;
      became.update(outcomeLook(last.outcome));
      when.update(last.recorded_at);
      put(error, last.error);
      set(error, "title", last.error);
    },
  };
}

/** When the next slot starts, or why none does. */
export function nextSlot() {
  const far = moment("due");
  const at = moment("absolute");
  const why = el("span", { class: "faint" });
  const node = el("span", { class: "stack" }, far.node, el("span", { class: "faint" }, at.node), why);
  return {
    node,
    update(one) {
      const due = one.pause ? null : (one.due ?? one.next[0] ?? null);
      show(far.node, due);
      show(at.node.parentNode, due);
      show(why, !due);
      far.update(due);
      at.update(due);
      put(why, one.pause ? "paused" : one.schedule === null ? "when asked for" : "none");
    },
  };
}
