// A job's attempts: what came of each, of those that its record keeps.

import { cell, el, keyed, put, show, table } from "../dom.js";
import { duration, moment } from "../format.js";
import { attemptLook, badge } from "../words.js";

/** A panel that is there as soon as there is something to tell. */
export function attempts() {
  const { node: sheet, body } = table("Attempts", [
    ["Attempt", "w-count"], ["Came to", "w-state"], ["Began", "w-state"], ["Took", "right w-took"],
    ["Worker", "w-20"], ["Error"],
  ]);
  sheet.className = "cards";
  const node = el("div", { class: "panel wide", hidden: true }, el("h2", { class: "pad", text: "Attempts" }), sheet);
  return {
    node,
    update(history = []) {
      show(node, history.length);
      keyed(body, history, (one) => `${one.attempt} ${one.started_at} ${one.outcome}`, attemptRow);
    },
  };
}

function attemptRow() {
  const number = el("span", { class: "num" });
  const became = badge();
  const began = moment("absolute");
  const took = el("span", { class: "num" });
  const where = el("span", { class: "mono faint" });
  const kind = el("strong");
  const message = el("span");
  const error = el("span", { class: "error" }, kind, " ", message);
  const node = el(
    "tr",
    {},
    el("th", { scope: "row" }, number),
    cell("Came to", "", became.node),
    cell("Began", "", began.node),
    cell("Took", "right", took),
    cell("Worker", "", where),
    cell("Error", "grow", error),
  );
  return {
    node,
    update(one) {
      put(number, one.attempt);
      became.update(attemptLook(one.outcome));
      began.update(one.started_at);
      put(took, duration(Date.parse(one.finished_at) - Date.parse(one.started_at)));
      put(where, one.worker);
      show(error, one.error);
      put(kind, one.error?.type);
      put(message, one.error?.message);
    },
  };
}
