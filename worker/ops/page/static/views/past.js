// What became of the slots of one schedule.

import { button } from "../actions.js";
import { cell, el, keyed, put, set, show, table } from "../dom.js";
import { duration, many, moment } from "../format.js";
import { badge, outcomeLook } from "../words.js";

const MOST = 25;

/** What became of the slots; the latest at first, the others once they are asked for. */
export function past() {
  const { node: sheet, body } = table("History", [
    ["Slot", "w-state"], ["Outcome"], ["By", "w-took"], ["Took", "right w-took"], ["Late", "right w-took"], ["Where", "w-20"],
  ]);
  set(sheet, "class", "cards history");
  const empty = el("p", { class: "empty", text: "No slot has an outcome yet." });
  let entries = [];
  let most = MOST;
  const rest = button("Show all", null, "small", () => {
    most = Infinity;
    draw();
    sheet.querySelectorAll("tbody tr")[MOST]?.scrollIntoView({ block: "nearest" });
  });
  const foot = el("div", { class: "foot" }, rest);
  const node = el("div", { class: "panel wide" }, el("h2", { class: "pad-head", text: "History" }), sheet, empty, foot);

  function draw() {
    keyed(body, entries.slice(0, most), (entry) => `${entry.slot} ${entry.run_id} ${entry.recorded_at} ${entry.outcome}`, historyRow);
    show(sheet, entries.length);
    show(empty, !entries.length);
    show(foot, entries.length > most);
    rest.become(`Show all ${entries.length}`);
  }

  return {
    node,
    update(fresh) {
      entries = fresh;
      draw();
    },
  };
}

function historyRow() {
  const when = moment("absolute");
  const became = badge();
  const count = el("span", { class: "faint" });
  const error = el("span", { class: "error" });
  const by = el("span");
  const took = el("span", { class: "num" });
  const late = el("span", { class: "num" });
  const where = el("span", { class: "mono faint" });
  const node = el(
    "tr",
    {},
    cell("Slot", "", when.node),
    cell("Outcome", "outcome-cell", el("span", { class: "stack" }, el("span", { class: "line" }, became.node, count), error)),
    cell("By", "", by),
    cell("Took", "right", took),
    cell("Late", "right", late),
    cell("Where", "", where),
  );
  return {
    node,
    update(entry) {
      when.update(entry.slot);
      became.update(outcomeLook(entry.outcome));
      put(count, entry.count > 1 ? `${many(entry.count, "slot")}` : "");
      put(error, entry.error);
      show(error, entry.error);
      put(by, entry.trigger);
      put(took, duration(entry.duration_ms));
      put(late, duration(entry.late_ms));
      put(where, entry.replica ?? "");
    },
  };
}
