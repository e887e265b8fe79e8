// One schedule: why it did not run, what became of its slots, and what is to come.

import { allowed, scheduleActions } from "../actions.js";
import { api } from "../api.js";
import { crumbs, el, keyed, put, set, show } from "../dom.js";
import { duration, moment, scheduleText } from "../format.js";
import { legend, sparkline, strip } from "../graphics.js";
import { ageOf } from "../parts.js";
import { badge, onDemand, standingLook } from "../words.js";
import { facts } from "./facts.js";
import { latest } from "./latest.js";
import { past } from "./past.js";

export function schedule({ item: name, live }) {
  const title = el("h1", { text: name });
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
  const slotsPast = past();
  const work = latest(name);
  const asked = allowed() ? el("a", { class: "button small", href: `#/enqueue/${encodeURIComponent(name)}`, text: "Enqueue with parameters" }) : null;
  const missing = el("p", { class: "empty", hidden: true });
  const age = ageOf("schedules");
  set(age.node, "class", "age wide");
  const durations = el("div", {}, el("h2", { text: "Durations" }), spark.node);
  const drawn = el("div", { class: "panel pad" }, el("div", { class: "heads" }, el("h2", { text: "Last 50 slots" }), legend()), slots.node, durations);
  const inner = el(
    "div",
    { class: "detail" },
    age.node,
    el(
      "div",
      { class: "column" },
      el("div", { class: "panel pad" }, el("h2", { text: "Why it does, or does not, run" }), verdict, why),
      drawn,
    ),
    el("div", { class: "panel pad" }, el("h2", { text: "Facts" }), figures.node),
    work.node,
    slotsPast.node,
  );
  set(spark.node, "class", "spark big");
  set(spark.node, "preserveAspectRatio", "none");
  const node = el(
    "section",
    {},
    crumbs("Schedules", "#/schedules", name),
    el("div", { class: "title" }, title, stands.node, el("div", { class: "actions end" }, asked, actions.node)),
    pause,
    missing,
    inner,
  );
  for (const one of [stands.node, asked]) if (one) show(one, false);
  let seen = null;
  let told = false;
  let failed = false;

  async function refresh() {
    try {
      tell(await api.schedule(name));
    } catch (error) {
      failed = true; // and asked again with the next state
      if (error.status === 404 && !told) put(title, "No such task");
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
    put(title, name);
    slotsPast.update(one.history);
    show(slotsPast.node, one.history.length || !onDemand(one));
    show(drawn, one.strip.length || !onDemand(one));
    if (one.queue) work.refresh();
    head(one);
  }

  function head(one) {
    stands.update(standingLook(one));
    show(stands.node, true);
    actions.update(one);
    if (asked) show(asked, one.queue);
    show(pause, one.pause);
    put(pause, one.pause ? `Paused by ${one.pause.by}${one.pause.note ? `: “${one.pause.note}”` : ""}` : "");
    slots.update(one.strip);
    spark.update(one.durations_ms);
    show(durations, one.durations_ms.length > 1);
    const coming = one.next.map((slot) => {
      const when = moment("absolute");
      when.update(slot);
      return when.node;
    });
    const slotless = onDemand(one);
    const success = one.last_success ? moment() : null;
    success?.update(one.last_success);
    figures.update({
      Schedule: scheduleText(one.schedule),
      "Said by": slotless ? null : one.said_by,
      "Next slots": slotless ? null : comingOf(one, coming),
      "Failures in a row": slotless ? null : String(one.failures),
      "Last success": slotless ? null : (success?.node ?? "none yet"),
      "A success is due every": slotless ? null : one.max_age_s ? duration(one.max_age_s * 1000) : "not said",
      Queue: one.queue ? el("a", { href: `#/jobs?queue=${encodeURIComponent(one.queue)}`, text: one.queue }) : "none",
    });
  }

  refresh();
  return {
    title: name,
    node,
    update(state) {
      age.update(state, inner);
      const isPaused = live.is === "paused";
      if (!isPaused) work.update();
      const one = state.schedules?.find((each) => each.name === name);
      if (!one) {
        // On demand, or unknown: no state tells of it.
        if ((failed || !told) && !isPaused) refresh();
        return;
      }
      const fresh = JSON.stringify([one.last, one.standing, one.pause, one.running]);
      const isOld = "schedules" in state.old;
      if (one.explanation) tell(one);
      else if ((failed || (seen !== null && fresh !== seen)) && !isOld && !isPaused) refresh();
      seen = fresh;
      head(one);
    },
  };
}

/** The next slots; while it is paused they come and go without a run. */
function comingOf(one, coming) {
  if (!coming.length) return "none";
  const words = one.pause ? [el("span", { class: "faint", text: "recorded as paused, would be" })] : [];
  return el("span", { class: "list" }, ...words, ...coming);
}
