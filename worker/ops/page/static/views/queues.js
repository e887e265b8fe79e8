// The queues: whether they are worked off.

import { allowed } from "../actions.js";
import { cell, el, keyed, put, set, show, table } from "../dom.js";
import { many, moment, number, now } from "../format.js";
import { history } from "../history.js";
import { sparkline } from "../graphics.js";
import { ageOf } from "../parts.js";

const MOST_NAMES = 3;

export function queues() {
  const list = queuesTable();
  const summary = el("p", { class: "sub" });
  const node = el(
    "section",
    {},
    el(
      "div",
      { class: "title" },
      el("h1", { text: "Queues" }),
      summary,
      allowed() ? el("div", { class: "actions end" }, el("a", { class: "button", href: "#/enqueue", text: "Enqueue a job" })) : null,
    ),
    el("div", { class: "panel" }, list.node),
  );
  return {
    title: "Queues",
    node,
    update(state) {
      put(summary, state.queues && many(state.queues.length, "queue"));
      list.update(state);
    },
  };
}

/** The table of queues, which the overview shows too. */
export function queuesTable({ tasks = true } = {}) {
  const { node: sheet, body } = table("Queues", [
    ["Queue", "w-27"], ["Waiting", "right"], ["Depth", "w-spark less"], ["Oldest", "right"], ["Running", "right"], ["Done a minute", "right"], ["Dead", "right"],
  ]);
  set(sheet, "class", "cards queues");
  const empty = el("p", { class: "empty", text: "No task has a queue." });
  const age = ageOf("queues");
  const node = el("div", {}, age.node, sheet, empty);
  return {
    node,
    update(state) {
      const all = state.queues ?? [];
      age.update(state, node);
      show(sheet, all.length);
      show(empty, state.queues && !all.length);
      keyed(body, all, (one) => one.name, () => row(tasks));
    },
  };
}

function row(withTasks) {
  const link = el("a", { class: "name" });
  const here = el("span", { class: "faint" });
  const tasks = el("ul", { class: "of-tasks" });
  const waiting = el("a", { class: "num" });
  const depth = sparkline("depth");
  const oldest = moment("elapsed");
  const active = el("a", { class: "num" });
  const pace = el("span", { class: "num" });
  const dead = el("a", { class: "num" });
  const node = el(
    "tr",
    {},
    el("th", { scope: "row" }, el("span", { class: "stack" }, link, here, withTasks ? tasks : null)),
    cell("Waiting", "right", waiting),
    cell("Depth", "spark-cell less", depth.node),
    cell("Oldest", "right", oldest.node),
    cell("Running", "right", active),
    cell("Done a minute", "right", pace),
    cell("Dead", "right", dead),
  );
  return {
    node,
    update(one) {
      const name = encodeURIComponent(one.name);
      put(link, one.name);
      set(link, "href", `#/jobs?queue=${name}`);
      put(here, polledBy(one));
      set(here, "class", one.polled_by?.length === 0 ? "warn-text" : "faint");
      put(waiting, number(one.waiting));
      set(waiting, "href", `#/jobs?queue=${name}&state=PENDING&state=RETRY`);
      set(waiting, "aria-label", `${one.waiting} waiting in ${one.name}`);
      depth.update(history.of(one.name));
      oldest.update(since(one));
      put(active, number(one.running));
      set(active, "href", `#/jobs?queue=${name}&state=STARTED`);
      set(active, "aria-label", `${one.running} running of ${one.name}`);
      put(pace, one.finished_per_minute === null ? "–" : perMinute(one.finished_per_minute));
      put(dead, number(one.dead));
      set(dead, "href", `#/dead?queue=${name}`);
      set(dead, "aria-label", `${one.dead} dead letters of ${one.name}`);
      set(dead, "class", one.dead ? "num bad-text" : "num");
      if (withTasks) keyed(tasks, one.tasks, (task) => task.task, taskRow);
    },
  };
}

/** Who polls it, as far as that is known. */
function polledBy(one) {
  if (one.polled_by === null) return one.polled_here ? "polled by this worker" : "who polls it is not known";
  if (!one.polled_by.length) return "nobody polls it";
  const more = one.polled_by.length - MOST_NAMES;
  return `polled by ${one.polled_by.slice(0, MOST_NAMES).join(", ")}${more > 0 ? ` and ${more} more` : ""}`;
}

const perMinute = (rate) => number(rate < 10 ? Math.round(rate * 10) / 10 : Math.round(rate));

/** Since when the oldest waits: as a moment it ages by itself, and no second tells it anew. */
function since(queue) {
  if (queue.oldest_age_s === null) return null;
  return new Date(Math.round((now() / 1000 - queue.oldest_age_s)) * 1000).toISOString();
}

function taskRow() {
  const node = el("li", { class: "faint" });
  return {
    node,
    update: (one) => put(node, `${one.task}: ${number(one.waiting)} waiting, ${number(one.running)} running, ${number(one.dead)} dead`),
  };
}
