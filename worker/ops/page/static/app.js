// Starts the page: who looks, which view, and what is told to it.

import { allow } from "./actions.js";
import { api, returnHere } from "./api.js";
import { banner, gravest } from "./banner.js";
import { help, say } from "./dialogs.js";
import { fetchIcons, put, set, show } from "./dom.js";
import { freeze, learnClock, relative, tick } from "./format.js";
import { history } from "./history.js";
import { Live } from "./live.js";
import { kept, ofMoment } from "./parts.js";
import { shortcuts } from "./shortcuts.js";
import { dead } from "./views/dead.js";
import { enqueue } from "./views/enqueue.js";
import { job } from "./views/job.js";
import { jobs } from "./views/jobs.js";
import { nowhere } from "./views/nowhere.js";
import { overview } from "./views/overview.js";
import { queues } from "./views/queues.js";
import { running } from "./views/running.js";
import { schedule } from "./views/schedule.js";
import { schedules } from "./views/schedules.js";

const at = (id) => document.getElementById(id);
const VIEWS = {
  "": [overview, null],
  schedules: [schedules, schedule],
  running: [running, null],
  queues: [queues, null],
  jobs: [jobs, job],
  dead: [dead, null],
  enqueue: [enqueue, enqueue],
};
/** Under which tab a view is that has none of its own. */
const TABS = { "": "overview", enqueue: "jobs" };

let state = null;
let view = null;
let path = null;
const top = banner(at("banner"), at("announce"));
const live = new Live(take, showConnection);

/** Where the address says that one is: `#/jobs/ID?task=x` is jobs, ID, and the query. */
function place() {
  const [route, query = ""] = location.hash.replace(/^#\/?/, "").split("?", 2);
  const [name = "", ...rest] = route.split("/");
  let item = null;
  try {
    item = rest.length ? decodeURIComponent(rest.join("/")) : null;
  } catch {
    item = rest.join("/");
  }
  return { name, item, query: new URLSearchParams(query) };
}

function navigate() {
  const { name, item, query } = place();
  const same = view !== null && path === `${name}/${item ?? ""}`;
  if (same) {
    view.filter?.(query);
    return;
  }
  const first = view === null;
  path = `${name}/${item ?? ""}`;
  view?.leave?.();
  const [all, one] = Object.hasOwn(VIEWS, name) ? VIEWS[name] : [nowhere, nowhere];
  view = (item !== null && one ? one : all)({ item, query, state: () => state, live });
  at("view").replaceChildren(view.node);
  set(document.body, "data-view", name || "overview");
  const tab = Object.hasOwn(TABS, name) ? TABS[name] : name;
  for (const link of at("nav").querySelectorAll("a")) {
    set(link, "aria-current", link.dataset.view === tab ? "page" : null);
  }
  if (state) view.update(state);
  titled();
  if (!first) {
    window.scrollTo(0, 0);
    const head = at("view").querySelector("h1");
    set(head, "tabindex", "-1");
    head?.focus({ preventScroll: true });
  }
}

function titled() {
  const wrong = state ? gravest(state.overview.problems).length : 0;
  document.title = `${wrong ? `(${wrong}) ` : ""}${view.title} · worker`;
}

function take(fresh) {
  state = kept(fresh, state);
  const { now, worker } = state.overview;
  learnClock(now);
  top.update(state.overview, staleSince());
  if (!("queues" in state.old)) history.learn(state.queues);
  count("count-running", state.running?.length);
  count("count-dead", state.queues?.reduce((sum, queue) => sum + queue.dead, 0));
  put(at("who"), worker.replica);
  put(at("about"), `sidecar-worker ${worker.version}`);
  view.update(state);
  titled();
  tick();
}

/** What an action has answered is shown at once, before the next state tells it. */
function learn(schedule) {
  if (!state?.schedules) return;
  const schedules = state.schedules.map((one) => (one.name === schedule.name ? schedule : one));
  state = { ...state, schedules };
  view.update(state);
  tick();
}

function count(id, value) {
  put(at(id), value || "");
  show(at(id), value);
}

const TOLD = { connecting: "Connecting", live: "Live", paused: "Paused", lost: "Lost" };

function showConnection() {
  const button = at("live");
  set(button, "data-is", live.is);
  put(at("live-text"), TOLD[live.is]);
  set(button, "aria-pressed", live.is === "paused");
  set(button, "aria-label", `${TOLD[live.is]}: ${live.is === "paused" ? "go on" : "pause"} the live view`);
  set(document.body, "data-stale", live.is === "lost" || live.is === "paused" ? live.is : null);
  set(at("lost"), "data-is", live.is);
  show(at("lost"), live.is === "lost" || live.is === "paused");
  freeze(staleSince());
  if (state) top.update(state.overview, staleSince());
  put(at("lost-now"), live.is === "paused" ? "Go on" : "Try now");
  tellLost();
}

/** The moment that is shown, in ms since 1970, unless it is this one. */
const staleSince = () => (live.is === "lost" || live.is === "paused" ? live.heard : null);

function tellLost() {
  const known = live.heard ? ofMoment(live.heard) : "Nothing is known yet.";
  if (live.is === "paused") put(at("lost-text"), `The live view is paused. ${known}`);
  if (live.is === "lost") {
    const again = live.nextTry > Date.now() ? `, trying again ${relative(live.nextTry - Date.now())}` : ", trying again";
    put(at("lost-text"), `The worker does not answer${again}. ${known}`);
  }
}

function toggleLive() {
  if (live.is === "paused") live.resume();
  else live.pause();
}

function toggleTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("worker.theme", root.dataset.theme);
}

async function start() {
  fetchIcons();
  returnHere();
  const keys = shortcuts({ toggleLive, toggleTheme, help: () => showHelp() });
  const showHelp = () => help(keys.on, keys.turn);
  at("theme").addEventListener("click", toggleTheme);
  at("help").addEventListener("click", showHelp);
  at("live").addEventListener("click", toggleLive);
  at("lost-now").addEventListener("click", () => (live.is === "paused" ? live.resume() : live.tryNow()));
  at("leave").addEventListener("click", leave);
  at("skip").addEventListener("click", (event) => {
    event.preventDefault();
    at("main").focus();
  });
  put(at("zone"), `Times are in ${Intl.DateTimeFormat().resolvedOptions().timeZone}`);
  const role = (await api.session().catch(() => ({ role: "read" }))).role;
  allow(role, learn);
  show(at("role"), role !== "full");
  set(at("role"), "title", "You signed in with the read-only token: nothing can be changed from here");
  window.addEventListener("hashchange", navigate);
  navigate();
  live.start();
  setInterval(() => {
    tick();
    tellLost();
    if (state) top.update(state.overview, staleSince()); // what is over goes by itself
  }, 1000);
}

async function leave() {
  try {
    await api.leave();
    location.reload(); // it asks for a token, and leads back here
  } catch (error) {
    say(error.message, "bad");
  }
}

start();
