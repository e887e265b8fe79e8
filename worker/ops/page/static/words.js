// What each word of the worker looks like: its tone, its sign, and how it is said.

import { el, icon, put, set } from "./dom.js";

const OUTCOMES = {
  waiting: ["wait", "wait", "waits"],
  running: ["live", "live", "runs"],
  ran: ["ok", "ok", "ran"],
  failed: ["bad", "bad", "failed"],
  skipped_overlap: ["mute", "mute", "skipped"],
  overdue: ["warn", "clock", "overdue"],
  missed: ["warn", "warn", "missed"],
  paused: ["mute", "pause", "paused"],
  lost: ["bad", "lost", "lost"],
};

const STANDINGS = {
  off: ["mute", "mute", "off"],
  paused: ["mute", "pause", "paused"],
  running: ["live", "live", "running"],
  waiting: ["wait", "wait", "waiting"],
  stale: ["warn", "warn", "stale"],
  failing: ["bad", "bad", "failing"],
  missed: ["warn", "warn", "missed"],
  over: ["mute", "mute", "over"],
  ok: ["ok", "ok", "ok"],
  new: ["mute", "clock", "new"],
};

const STATES = {
  PENDING: ["wait", "wait", "pending"],
  STARTED: ["live", "live", "running"],
  PROGRESS: ["live", "live", "running"],
  RETRY: ["warn", "retry", "retries"],
  SUCCESS: ["ok", "ok", "success"],
  FAILURE: ["bad", "bad", "failure"],
  REVOKED: ["mute", "stop", "revoked"],
  EXPIRED: ["warn", "clock", "expired"],
};

const ATTEMPTS = {
  succeeded: ["ok", "ok", "succeeded"],
  failed: ["bad", "bad", "failed"],
  lost: ["bad", "lost", "lost"],
  given_back: ["mute", "retry", "given back"],
  snoozed: ["wait", "wait", "snoozed"],
  cancelled: ["mute", "stop", "cancelled"],
};

const DEAD = ["bad", "dead", "dead letter"];
const SEVERITIES = { ok: ["ok", "ok"], info: ["mute", "info"], warning: ["warn", "warn"], critical: ["bad", "bad"] };

const ON_DEMAND = ["mute", "queues", "on demand"];

const look = (words, word) => (Object.hasOwn(words, word) ? words[word] : ["mute", "mute", word]);

export const outcomeLook = (outcome) => look(OUTCOMES, outcome);
export const attemptLook = (outcome) => look(ATTEMPTS, outcome);
/** Whether it waits to be asked for, and has no slots. */
export const onDemand = (schedule) => schedule.schedule === null && schedule.queue !== null;
/** Whether it can be run without being told parameters. */
export const canRun = (schedule) => !onDemand(schedule);
export const standingLook = (schedule) =>
  onDemand(schedule) && schedule.standing === "off" ? ON_DEMAND : look(STANDINGS, schedule.standing);
export const stateLook = (job) => (job.dead ? DEAD : look(STATES, job.state));
export const severityLook = (severity) => look(SEVERITIES, severity);
export const JOB_STATES = ["PENDING", "STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED", "EXPIRED"];
export const stateWord = (state) => look(STATES, state)[2];

/** Which attempt goes on, or how many there were. */
export const attemptsOf = (job) =>
  job.state === "STARTED" || job.state === "PROGRESS" ? job.attempts + 1 : job.attempts;

/** A word with its sign; `update` takes what a look function gives. */
export function badge() {
  const sign = icon("mute");
  const word = el("span");
  const node = el("span", { class: "badge" }, sign, word);
  return {
    node,
    update([tone, name, text]) {
      set(node, "data-tone", tone);
      sign.become(name);
      put(word, text);
    },
  };
}
