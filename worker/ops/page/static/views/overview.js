// Everything at a glance: the banner above, then what runs, waits, and is due.

import { el, keyed, name, put, set, show } from "../dom.js";
import { moment } from "../format.js";
import { legend, strip } from "../graphics.js";
import { ageOf } from "../parts.js";
import { badge, standingLook } from "../words.js";
import { queuesTable } from "./queues.js";
import { runningTable } from "./running.js";
import { nextSlot, placeOf } from "./schedules.js";

export function overview() {
  const tasks = el("ul", { class: "glance" });
  const age = ageOf("schedules");
  const known = el("div", {}, age.node, tasks);
  const runs = runningTable();
  const waits = queuesTable({ tasks: false });
  const workers = el("ul", { class: "workers" });
  const node = el(
    "section",
    { class: "overview" },
    el("h1", { class: "unseen", text: "Overview" }),
    panel("Schedules", "#/schedules", known, legend()),
    el("div", { class: "stacked" }, panel("Queues", "#/queues", waits.node), panel("Workers", null, workers)),
    panel("Running now", "#/running", runs.node),
  );
  return {
    title: "Overview",
    node,
    update(state) {
      age.update(state, known);
      keyed(tasks, (state.schedules ?? []).filter((one) => one.schedule !== null), (one) => one.name, glance);
      runs.update(state);
      waits.update(state);
      keyed(workers, state.overview.replicas, (one) => `${one.name} ${one.since}`, worker);
    },
  };
}

function panel(title, href, node, aside = null) {
  const head = el("h2", {}, href ? el("a", { href, text: title }) : title);
  return el("div", { class: "panel" }, el("div", { class: "heads pad-head" }, head, aside), node);
}

function glance() {
  const link = el("a", { class: "name" });
  const stands = badge();
  const slots = strip();
  const next = nextSlot();
  const node = el("li", {}, el("span", { class: "line" }, link, stands.node), slots.node, next.node);
  return {
    node,
    update(one) {
      name(link, one.name);
      set(link, "href", placeOf(one.name));
      stands.update(standingLook(one));
      slots.update(one.strip);
      next.update(one);
    },
  };
}

const UP = ["ok", "ok", "up"];
const GONE = ["mute", "mute", "gone"];
const LOST = ["warn", "lost", "lost"];

function worker() {
  const who = el("span", { class: "mono" });
  const stands = badge();
  const since = moment("absolute");
  const seen = moment();
  const last = el("span", { class: "faint" }, "seen ", seen.node);
  const serves = el("span", { class: "faint" });
  const node = el("li", {}, el("span", { class: "line" }, who, stands.node), el("span", { class: "faint" }, "since ", since.node), serves, last);
  return {
    node,
    update(one) {
      put(who, one.name);
      stands.update(one.alive ? UP : one.lost ? LOST : GONE);
      put(serves, served(one));
      show(serves, one.alive);
      since.update(one.since);
      seen.update(one.seen);
      show(last, !one.alive);
    },
  };
}

/** What a worker says that it does; one of an older version does not say. */
function served(one) {
  if (one.queues === null) return "does not say what it polls";
  const polls = one.queues.length ? `polls ${one.queues.join(", ")}` : "polls no queue";
  return one.slots ? polls : `${polls}, takes no slots`;
}
