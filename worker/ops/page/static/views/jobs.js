// The jobs, by filters that stand in the address: what one sees can be sent to somebody else.

import { allowed } from "../actions.js";
import { api } from "../api.js";
import { cell, el, keyed, name, put, set, show, table } from "../dom.js";
import { duration, moment } from "../format.js";
import { progress } from "../graphics.js";
import { ofMoment } from "../parts.js";
import { JOB_STATES, attemptsOf, badge, stateLook, stateWord } from "../words.js";
import { choice, filters, pager } from "./filters.js";
import { still } from "./still.js";

const LIMIT = "50";

export function jobs({ query, state, live }) {
  const sheet = jobsTable();
  const empty = el("p", { class: "empty", text: "No job is as the filters say." });
  const error = el("p", { class: "callout bad", role: "alert", hidden: true });
  const panel = el("div", { class: "panel" }, sheet.node, empty);
  const held = still(panel, refresh);
  const pages = pager("jobs");
  const bar = filters("jobs", [
    choice("task", "Task", () => namesOf(state(), "task")),
    choice("queue", "Queue", () => (state()?.queues ?? []).map((one) => one.name)),
    statesFilter(),
    choice("dead", "Dead letters", () => [["true", "only them"], ["false", "not them"]]),
    choice("since", "Asked for", () => [["1h", "in the last hour"], ["24h", "in the last day"], ["7d", "in the last week"]]),
  ]);
  const node = el(
    "section",
    {},
    el(
      "div",
      { class: "title" },
      el("h1", { text: "Jobs" }),
      held.node,
      finder(),
      allowed() ? el("div", { class: "actions end" }, el("a", { class: "button", href: "#/enqueue", text: "Enqueue a job" })) : null,
    ),
    bar.node,
    error,
    panel,
    pages.node,
  );
  let asking = null;
  let heard = null;

  async function refresh() {
    const asked = (asking = asApi(query));
    try {
      const found = await api.jobs(asked);
      if (asked !== asking) return; // another filter was chosen meanwhile
      const rows = held.rows(found);
      sheet.update(rows);
      show(empty, !rows.length);
      show(error, false);
      heard = Date.now();
      set(panel, "data-old", false);
      show(panel, true);
      pages.update(query, found.next);
    } catch (refused) {
      put(error, heard ? `${refused.message}. ${ofMoment(heard)}` : `Not known: ${refused.message}`);
      show(error, true);
      set(panel, "data-old", heard !== null);
      show(panel, heard !== null);
    }
  }

  bar.update(query);
  show(empty, false);
  sheet.update([]);
  pages.update(query, null);
  refresh();
  return {
    title: "Jobs",
    node,
    filter(fresh) {
      query = fresh;
      heard = null;
      held.move();
      bar.update(query);
      refresh();
    },
    update() {
      bar.offer();
      if (live.is !== "paused" && !query.has("before")) refresh();
    },
  };
}

/** The table of jobs, which the page of a task shows too. */
export function jobsTable() {
  const { node, body } = table("Jobs", [
    ["Job", "w-23"], ["State", "w-state"], ["Queue"], ["Asked for", "w-when"], ["Took", "right w-count"],
    ["Attempts", "right w-count"], ["What is known", "w-27"],
  ]);
  set(node, "class", "cards jobs");
  return {
    node,
    update(rows) {
      keyed(body, rows, (job) => job.id, row);
      show(node, rows.length);
    },
  };
}

/** The tasks that have a queue, or had one. */
export function namesOf(state) {
  const all = (state?.queues ?? []).flatMap((queue) => queue.tasks.map((one) => one.task));
  const queued = (state?.schedules ?? []).filter((one) => one.queue).map((one) => one.name);
  return [...new Set([...all, ...queued])].sort();
}

const HOURS = { "1h": 1, "24h": 24, "7d": 168 };

/** What is asked of the worker: a span of the address becomes a moment. */
export function asApi(query) {
  const wish = new URLSearchParams(query);
  const span = wish.get("since");
  if (span !== null && Object.hasOwn(HOURS, span)) wish.set("since", new Date(Date.now() - HOURS[span] * 3600000).toISOString());
  if (!wish.has("limit")) wish.set("limit", LIMIT);
  return wish;
}

function statesFilter() {
  const boxes = JOB_STATES.map((state) => {
    const box = el("input", { type: "checkbox", name: "state", value: state });
    return { box, node: el("label", { class: "pill" }, box, el("span", { text: stateWord(state) })) };
  });
  return {
    node: el("fieldset", { class: "pills" }, el("legend", { text: "State" }), ...boxes.map((one) => one.node)),
    read: (query) => boxes.filter(({ box }) => box.checked).forEach(({ box }) => query.append("state", box.value)),
    update: (query) => boxes.forEach(({ box }) => (box.checked = query.getAll("state").includes(box.value))),
    offer() {},
  };
}

function finder() {
  const field = el("input", { id: "find", placeholder: "Job id", autocomplete: "off", spellcheck: "false" });
  return el(
    "form",
    {
      class: "find",
      role: "search",
      on: {
        submit: (event) => {
          event.preventDefault();
          if (field.value.trim()) location.hash = `#/jobs/${encodeURIComponent(field.value.trim())}`;
        },
      },
    },
    el("label", { for: "find", class: "unseen", text: "Open a job by its id" }),
    field,
    el("button", { class: "small", text: "Open" }),
  );
}

function row() {
  const link = el("a", { class: "name" });
  const id = el("span", { class: "mono faint clip" });
  const stands = badge();
  const queue = el("span");
  const asked = moment();
  const took = el("span", { class: "num" });
  const attempts = el("span", { class: "num" });
  const bar = progress();
  const error = el("span", { class: "error clip" });
  const known = cell("What is known", "grow", error, bar.node);
  const node = el(
    "tr",
    {},
    el("th", { scope: "row" }, el("span", { class: "stack" }, link, id)),
    cell("State", "", stands.node),
    cell("Queue", "", queue),
    cell("Asked for", "", asked.node),
    cell("Took", "right", took),
    cell("Attempts", "right", attempts),
    known,
  );
  return {
    node,
    update(job) {
      set(node, "data-gone", job.gone);
      name(link, job.task);
      set(link, "href", `#/jobs/${encodeURIComponent(job.id)}`);
      put(id, job.id);
      stands.update(stateLook(job));
      put(queue, job.queue);
      asked.update(job.created_at);
      const ended = job.started_at && job.finished_at;
      put(took, ended ? duration(Date.parse(job.finished_at) - Date.parse(job.started_at)) : "–");
      put(attempts, attemptsOf(job));
      put(error, job.error ? `${job.error.type}: ${job.error.message}` : "");
      set(error, "title", job.error?.message ?? null);
      show(error, job.error);
      const runs = job.state === "STARTED" || job.state === "PROGRESS";
      show(bar.node, runs);
      set(known, "data-empty", !job.error && !runs);
      if (runs) bar.update(job.progress, `Progress of ${job.id}`);
    },
  };
}
