// Numbers and moments as people read them. Moments are shown in the browser's own time zone.

import { el, put, set } from "./dom.js";

let skew = 0;
let frozen = null;
const JUST_DUE_MS = 10000;

/** Learn the worker's clock: ages are judged by it, not by this computer's. */
export function learnClock(iso) {
  const theirs = Date.parse(iso);
  if (!Number.isNaN(theirs)) skew = theirs - Date.now();
}

/** The worker's time, in ms since 1970; or the moment at which it was stopped. */
export function now() {
  return (frozen ?? Date.now()) + skew;
}

/** Stop the time at a moment of this computer's, for what is told is of then; null lets it go on. */
export function freeze(moment) {
  if (frozen === moment) return;
  frozen = moment;
  tick();
}

/** 12 ms, 1.2 s, 2 min 5 s, 1 h 4 min, 3 d 2 h. */
export function duration(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 1000) return `${ms < 10 ? Math.round(ms * 10) / 10 : Math.round(ms)} ms`;
  const s = ms / 1000;
  if (s < 60) return `${s < 10 ? s.toFixed(1) : Math.round(s)} s`;
  return two(Math.round(s), [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]]);
}

function two(seconds, units) {
  const first = units.findIndex(([, size]) => seconds >= size);
  const [unit, size] = units[first];
  const whole = `${Math.floor(seconds / size)} ${unit}`;
  const next = units[first + 1];
  const rest = next ? Math.floor((seconds % size) / next[1]) : 0;
  return rest ? `${whole} ${rest} ${next[0]}` : whole;
}

/** in 12 s, 5 min ago, now: of a distance to now in ms. */
export function relative(ms) {
  const s = Math.round(Math.abs(ms) / 1000);
  if (s === 0) return "now";
  let far = `${s} s`;
  if (s >= 2 * 86400) far = `${Math.round(s / 86400)} d`;
  else if (s >= 2 * 3600) far = `${Math.round(s / 3600)} h`;
  else if (s >= 120) far = `${Math.round(s / 60)} min`;
  return ms > 0 ? `in ${far}` : `${far} ago`;
}

const TIME = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

/** 12:30:05, or 21 Nov 12:30:05 if that is not today. */
export function absolute(moment) {
  const date = new Date(moment);
  const time = TIME.format(date);
  return DAY.format(date) === DAY.format(new Date()) ? time : `${DAY.format(date)} ${time}`;
}

/** A moment that keeps itself current: `shows` is "relative", "absolute", "elapsed" or "due". */
export function moment(shows = "relative") {
  const node = el("time", { "data-shows": shows, class: "num" });
  return { node, update: (iso) => at(node, iso) };
}

function at(node, iso) {
  set(node, "datetime", iso ?? null);
  set(node, "title", iso ? `${absolute(Date.parse(iso))}, ${iso}` : null);
  tell(node);
}

function tell(node) {
  const when = Date.parse(node.getAttribute("datetime"));
  if (Number.isNaN(when)) put(node, "–");
  else if (node.dataset.shows === "absolute") put(node, absolute(when));
  else if (node.dataset.shows === "elapsed") {
    const s = Math.max(0, Math.floor((now() - when) / 1000));
    put(node, s < 60 ? `${s} s` : duration(s * 1000));
  } else if (node.dataset.shows === "due") put(node, dueText(when - now()));
  else put(node, relative(when - now()));
}

/** When what is due begins: a slot that has just come is not late yet. */
function dueText(ms) {
  if (ms > 0) return relative(ms);
  return ms > -JUST_DUE_MS ? "now" : `due ${relative(ms)}`;
}

/** Let every moment of the page tell itself again. */
export function tick() {
  for (const node of document.querySelectorAll("time[data-shows]")) tell(node);
}

/** 1 job, 2 jobs. */
export function many(count, one, more = `${one}s`) {
  return `${new Intl.NumberFormat("en").format(count)} ${count === 1 ? one : more}`;
}

/** 1,234. */
export function number(value) {
  return value === null || value === undefined ? "–" : new Intl.NumberFormat("en").format(value);
}

/** The schedule of a task as it was said. */
export function scheduleText(schedule) {
  return schedule === null || schedule === undefined ? "on demand" : schedule;
}
