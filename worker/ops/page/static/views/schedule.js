// One schedule: why it did not run, what became of its slots, and what is to come.

import { allowed, scheduleActions } from "../actions.js";
import { api } from "../api.js";
import { cell, el, keyed, put, set, show, table } from "../dom.js";
import { duration, many, moment, scheduleText } from "../format.js";
import { sparkline, strip } from "../graphics.js";
import { ageOf } from "../parts.js";
import { badge, outcomeLook, standingLook } from "../words.js";
import { facts } from "./facts.js";
import { legend } from "./schedules.js";

export function schedule({ item: name, live }) {
  const stands = badge();
  const actions = scheduleActions();
  const pause = el("p", { class: "callout", hidden: true });
  const verdict = el("p", { class: "verdict", text: "…" });
  const why = el("ul", { class: "whys" });
  const slots = strip();
  const spark = sparkline();
  const figures = facts([
    "Schedule", "Said by", "Next slots", "Failures in a row", "Last success", "A success is due every", "Queue",
  ]);
  const { node: sheet, body } = table("History", [
    ["Slot", "w-state"], ["Outcome"], ["By", "w-took"], ["Took", "right w-took"], ["Late", "right w-took"], ["Where", "w-20"],
  ]);
  set(sheet, "class", "cards");
  const asked = allowed() ? el("a", { class: "button small", href: `#/enqueue/${encodeURIComponent(name)}`, text: "Enqueue with parameters" }) : null;
  const missing = el("p", { class: "empty", hidden: true });
  const age = ageOf("schedules");
  set(age.node, "class", "age wide");
  const inner = el(
    "div",
    { class: "detail" },
    age.node,
    el(
      "div",
      { class: "column" },
      el("div", { class: "panel pad" }, el("h2", { text: "Why it does, or does not, run" }), verdict, why),
      el("div", { class: "panel pad" }, el("div", { class: "heads" }, el("h2", { text: "Last 50 slots" }), legend()), slots.node, el("h2", { text: "Durations" }), spark.node),
    ),
    el("div", { class: "panel pad" }, el("h2", { text: "Facts" }), figures.node),
    el("div", { class: "panel wide" }, el("h2", { class: "pad-head", text: "History" }), sheet),
  );
  set(spark.node, "class", "spark big");
  set(spark.node, "preserveAspectRatio", "none");
  const node = el(
    "section",
    {},
    el("p", { class: "crumbs" }, el("a", { href: "#/schedules", text: "Schedules" })),
    el("div", { class: "title" }, el("h1", { text: name }), stands.node, el("div", { class: "actions end" }, asked, actions.node)),
    pause,
    missing,
    inner,
  );
  let seen = null;
  let told = false;
  let failed = false;

  async function refresh() {
    try {
      tell(await api.schedule(name));
    } catch (error) {
      failed = true; // and asked again with the next state
      put(missing, error.message);
    }
    show(missing, !told);
    show(inner, told);
  }

  function tell(one) {
    told = true;
    failed = false;
    put(verdict, one.explanation.verdict);
    keyed(why, one.explanation.facts, (fact) => fact, () => {
      const line = el("li");
      return { node: line, update: (fact) => put(line, fact) };
    });
    keyed(body, one.history, (entry) => `${entry.slot} ${entry.run_id} ${entry.recorded_at} ${entry.outcome}`, historyRow);
    head(one);
  }

  function head(one) {
    stands.update(standingLook(one.standing));
    actions.update(one);
    if (asked) show(asked, one.queue);
    show(pause, one.pause);
    put(pause, one.pause ? `Paused by ${one.pause.by}${one.pause.note ? `: “${one.pause.note}”` : ""}` : "");
    slots.update(one.strip);
    spark.update(one.durations_ms);
    const coming = one.next.map((slot) => {
      const when = moment("absolute");
      when.update(slot);
      return when.node;
    });
    const success = one.last_success ? moment() : null;
    success?.update(one.last_success);
    figures.update({
      Schedule: scheduleText(one.schedule),
      "Said by": one.said_by,
      "Next slots": coming.length ? el("span", { class: "list" }, ...coming) : "none",
      "Failures in a row": String(one.failures),
      "Last success": success?.node ?? "none yet",
      "A success is due every": one.max_age_s ? duration(one.max_age_s * 1000) : "not said",
      Queue: one.queue ?? "none",
    });
  }

  refresh();
  return {
    title: name,
    node,
    update(state) {
      age.update(state, inner);
      const one = state.schedules?.find((each) => each.name === name);
      if (!one) return;
      const fresh = JSON.stringify([one.last, one.standing, one.pause, one.running]);
      const isOld = "schedules" in state.old;
      if (one.explanation) tell(one);
      else if ((failed || (seen !== null && fresh !== seen)) && !isOld && live.is !== "paused") refresh();
      seen = fresh;
      head(one);
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
    cell("Outcome", "", el("span", { class: "stack" }, el("span", { class: "line" }, became.node, count), error)),
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
