// The latest jobs of one task.

import { api } from "../api.js";
import { el, show } from "../dom.js";
import { jobsTable } from "./jobs.js";

const MOST = 10;

/** The latest jobs of a task, once something is known to ask for: `refresh`. */
export function latest(task) {
  const query = new URLSearchParams({ task, limit: MOST });
  const sheet = jobsTable();
  const empty = el("p", { class: "empty", text: "Nobody has asked for it yet, or its jobs are not kept any more." });
  const all = el("a", { href: `#/jobs?task=${encodeURIComponent(task)}`, text: "All of them" });
  const dead = el("a", { href: `#/dead?task=${encodeURIComponent(task)}`, text: "Its dead letters" });
  const head = el("div", { class: "heads pad-head" }, el("h2", { text: "Its latest jobs" }), el("span", { class: "links" }, all, dead));
  const node = el("div", { class: "panel wide", hidden: true }, head, sheet.node, empty);
  let asked = false;

  async function refresh() {
    asked = true;
    try {
      const { jobs } = await api.jobs(query);
      sheet.update(jobs);
      show(empty, !jobs.length);
      show(node, true);
    } catch {
      // What was known stays; the banner says that the queues do not answer.
    }
  }

  return {
    node,
    refresh,
    update() {
      if (asked) refresh();
    },
  };
}
