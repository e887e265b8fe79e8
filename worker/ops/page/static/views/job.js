// One job: what became of it, step by step, and what can be done.

import { actOn, allowed, button } from "../actions.js";
import { api } from "../api.js";
import { crumbs, el, keyed, put, set, show } from "../dom.js";
import { say } from "../dialogs.js";
import { moment, now } from "../format.js";
import { progress } from "../graphics.js";
import { attemptsOf, badge, stateLook } from "../words.js";
import { attempts } from "./attempts.js";
import { facts } from "./facts.js";

const WAITS = new Set(["PENDING", "RETRY"]);
const RUNS = new Set(["STARTED", "PROGRESS"]);

export function job({ item: id, live }) {
  const title = el("h1", { text: "Job" });
  const stands = badge();
  const bar = progress();
  const error = el("div", { class: "callout bad", hidden: true }, el("strong"), el("pre", { class: "wrap" }));
  const missing = el("p", { class: "empty", hidden: true });
  const figures = facts(["Id", "Queue", "Asked for", "May begin", "Began", "Ended", "Expires", "Worker", "Attempts spent", "Workers lost", "Given back", "Priority", "Options"]);
  const timeline = el("ol", { class: "timeline" });
  const tries = attempts();
  const acts = {
    cancel: button("Cancel", "stop", "", () => act("cancel")),
    retry: button("Retry", "retry", "", () => act("retry")),
    drop: button("Drop", "drop", "", () => act("drop")),
  };
  const copy = button("Copy id", "copy", "small quiet", async () => {
    await navigator.clipboard?.writeText(id);
    say("Copied");
  });
  const secret = payload(id, () => known?.finished_at);
  const inner = el(
    "div",
    { class: "detail" },
    el("div", { class: "panel pad" }, el("h2", { text: "What happened" }), timeline),
    el("div", { class: "panel pad" }, el("h2", { text: "Facts" }), figures.node),
    tries.node,
    el("div", { class: "panel pad wide" }, el("h2", { text: "Parameters and result" }), secret),
  );
  const node = el(
    "section",
    {},
    crumbs("Jobs", "#/jobs", id),
    el("div", { class: "title" }, title, stands.node, copy, el("div", { class: "actions end" }, ...(allowed() ? Object.values(acts) : []))),
    bar.node,
    error,
    missing,
    inner,
  );
  for (const one of [bar.node, stands.node, copy, ...Object.values(acts)]) show(one, false);
  let known = null;

  async function act(what) {
    if (!(await actOn(known, what))) return;
    if (what === "drop") location.hash = "#/dead";
    else refresh();
  }

  async function refresh() {
    try {
      known = await api.job(id);
      tell(known);
      show(missing, false);
    } catch (refused) {
      if (refused.status === 404 && !known) put(title, "No such job");
      put(missing, refused.message);
      show(missing, true);
    }
    show(inner, known);
  }

  function tell(one) {
    put(title, one.task);
    stands.update(stateLook(one));
    show(stands.node, true);
    show(copy, true);
    show(bar.node, RUNS.has(one.state));
    bar.update(one.progress, "Progress");
    show(error, one.error);
    put(error.firstChild, one.error?.type);
    put(error.lastChild, one.error?.message);
    show(acts.cancel, (WAITS.has(one.state) || RUNS.has(one.state)) && !one.cancel);
    show(acts.retry, !WAITS.has(one.state) && !RUNS.has(one.state));
    show(acts.drop, one.dead);
    figures.update({
      Id: el("span", { class: "mono", text: one.id }),
      Queue: el("a", { href: `#/jobs?queue=${encodeURIComponent(one.queue)}`, text: one.queue }),
      "Asked for": time(one.created_at),
      "May begin": WAITS.has(one.state) ? time(one.ready_at) : null,
      Began: time(one.started_at),
      Ended: time(one.finished_at),
      Expires: time(one.expires_at),
      Worker: one.worker,
      "Attempts spent": String(attemptsOf(one)),
      "Workers lost": one.losses ? String(one.losses) : null,
      "Given back": one.refusals ? String(one.refusals) : null,
      Priority: String(one.priority),
      Options: one.options && Object.keys(one.options).length ? el("code", { text: JSON.stringify(one.options) }) : null,
    });
    tries.update(one.history);
    keyed(timeline, one.timeline.map((step, n) => ({ ...step, n })), (step) => `${step.n} ${step.at} ${step.what}`, stepRow);
  }

  refresh();
  return {
    title: id,
    node,
    update() {
      if (live.is !== "paused") refresh();
    },
  };
}

function time(iso) {
  if (!iso) return null;
  const far = moment();
  const at = moment("absolute");
  far.update(iso);
  at.update(iso);
  return el("span", {}, at.node, el("span", { class: "faint" }, " · ", far.node));
}

function stepRow() {
  const at = moment("absolute");
  const what = el("strong");
  const detail = el("span", { class: "faint" });
  const far = moment();
  const ahead = el("span", { class: "faint" }, " · ", far.node);
  const node = el("li", {}, at.node, el("span", {}, what, " ", detail, ahead));
  return {
    node,
    update(step) {
      const comes = step.at !== null && Date.parse(step.at) > now();
      set(node, "data-ahead", comes);
      show(ahead, comes);
      far.update(comes ? step.at : null);
      at.update(step.at);
      put(what, step.what);
      put(detail, step.detail ?? "");
    },
  };
}

/** Hidden until asked for: parameters may be personal, and others see this screen. */
function payload(id, hasEnded) {
  const params = el("pre");
  const result = el("pre");
  const shown = el(
    "div",
    { class: "payload", hidden: true },
    el("h3", { text: "Parameters" }), params, el("h3", { text: "Result" }), result,
  );
  const open = button("Show them", "eye", "small", async () => {
    if (!shown.hidden) {
      show(shown, false);
      open.become("Show them", "eye");
    } else {
      try {
        const told = await api.payload(id);
        put(params, JSON.stringify(told.params, null, 2));
        // A task may well have returned null, which is a result of four bytes.
        put(result, told.result_bytes ? JSON.stringify(told.result, null, 2) : hasEnded() ? "none" : "none yet");
        show(shown, true);
        open.become("Hide them", "eye");
      } catch (refused) {
        say(refused.message, "bad");
      }
    }
    set(open, "aria-expanded", String(!shown.hidden));
  });
  set(open, "aria-expanded", "false");
  return el("div", {}, open, shown);
}
