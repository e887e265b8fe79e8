// What runs now, how far it is, and a way to end it.

import { actOn, allowed, button } from "../actions.js";
import { cell, el, keyed, name, put, set, show, table } from "../dom.js";
import { many, moment } from "../format.js";
import { progress } from "../graphics.js";
import { ageOf } from "../parts.js";
import { placeOf } from "./schedules.js";

export function running() {
  const sheet = runningTable();
  const summary = el("p", { class: "sub" });
  const node = el(
    "section",
    {},
    el("div", { class: "title" }, el("h1", { text: "Running now" }), summary),
    el("div", { class: "panel" }, sheet.node),
  );
  return {
    title: "Running",
    node,
    update(state) {
      put(summary, state.running && many(state.running.length, "run"));
      sheet.update(state);
    },
  };
}

/** The table of what runs, which the overview shows too. */
export function runningTable() {
  const { node: sheet, body } = table("Running now", [
    ["Task", "w-30"], ["Progress"], ["For", "w-when"], ["Attempt", "right w-count less"], ["Where", "less"],
    ...(allowed() ? [["", "w-one"]] : []),
  ]);
  set(sheet, "class", "cards running");
  const empty = el("p", { class: "empty", text: "Nothing runs at this moment." });
  const age = ageOf("running");
  const node = el("div", {}, age.node, sheet, empty);
  return {
    node,
    update(state) {
      const all = state.running ?? [];
      age.update(state, node);
      show(sheet, all.length);
      show(empty, state.running && !all.length);
      keyed(body, all, (one) => `${one.kind} ${one.id}`, row);
    },
  };
}

function row(one) {
  const link = el("a", { class: "name" });
  const id = el("span", { class: "mono faint clip" });
  const bar = progress();
  const since = moment("elapsed");
  const attempt = el("span", { class: "num" });
  const where = el("span", { class: "mono faint" });
  const end = button("Cancel", "stop", "small", () => actOn(one, "cancel"));
  const asked = el("span", { class: "faint", text: "cancel requested, still running" });
  const hint = el("span", { class: "faint hint", text: "ends with its worker" });
  const overdue = el("span", { class: "faint", text: "its code does not end" });
  const node = el(
    "tr",
    {},
    el("th", { scope: "row" }, el("span", { class: "stack" }, link, id, overdue)),
    cell("Progress", "", bar.node),
    cell("For", "", since.node),
    cell("Attempt", "right less", attempt),
    cell("Where", "less", where),
    allowed() ? cell("", "right", end, asked, hint) : null,
  );
  return {
    node,
    update(fresh) {
      name(link, fresh.task);
      set(link, "href", fresh.kind === "job" ? `#/jobs/${encodeURIComponent(fresh.id)}` : placeOf(fresh.task));
      put(id, fresh.id);
      bar.update(fresh.progress, `Progress of ${fresh.task} ${fresh.id}`);
      since.update(fresh.since);
      put(attempt, fresh.attempt ?? "–");
      put(where, fresh.replica ?? "");
      set(end, "aria-label", `Cancel ${fresh.task} ${fresh.id}`);
      show(end, fresh.kind === "job" && !fresh.cancel);
      show(asked, fresh.cancel);
      show(overdue, fresh.overdue_s !== null);
      set(overdue, "title", fresh.stack ?? "");
      show(hint, fresh.kind === "slot" && !fresh.cancel);
    },
  };
}
