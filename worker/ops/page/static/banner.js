// The first thing anybody looks at: all is well, or what is wrong, why, and where to look.

import { el, icon, keyed, put, set, show } from "./dom.js";
import { absolute, many } from "./format.js";
import { severityLook } from "./words.js";

const PLACES = {
  schedule: (name) => (name ? `#/schedules/${encodeURIComponent(name)}` : "#/schedules"),
  queue: (name) => (name ? `#/jobs?queue=${encodeURIComponent(name)}` : "#/queues"),
  data_api: () => "#/schedules",
  dead: (name) => (name ? `#/dead?queue=${encodeURIComponent(name)}` : "#/dead"),
};

/** How many rows there are away from the overview, where they share one line; see the style. */
const ROOM = 3;
/** How long what is over stays listed: what comes and goes does not move the page each time. */
const LINGERS_MS = 15000;

export function banner(node, announce) {
  const sign = icon("mute");
  const line = el("a", { class: "line", href: "#/", text: "Asking the worker …" });
  const note = el("p", { class: "note" });
  const list = el("ul");
  const others = el("a", { class: "others", href: "#/" });
  node.append(el("div", { class: "head" }, sign, line, note), list, others);
  let said = null;
  let rows = [];
  return {
    /** `of`: the moment that this is of, in ms since 1970, unless it is now. */
    update({ status, problems }, of = null) {
      set(node, "data-status", status);
      sign.become(severityLook(status)[1]);
      const wrong = gravest(problems).length;
      put(line, headOf(wrong, problems.length - wrong, of));
      put(note, "Every schedule does its work, and the queues are worked off.");
      rows = lingering(numbered(problems), rows);
      show(note, !rows.length && of === null);
      keyed(list, rows, (one) => one.key, problemRow);
      show(list, rows.length > 0);
      put(others, `+${problems.length - ROOM} more`);
      show(others, problems.length > ROOM);
      // Spoken only when something else is wrong than before, not with every second of a message.
      const fresh = JSON.stringify(problems.map((one) => [one.kind, one.name, one.severity]));
      if (fresh !== said) {
        put(announce, said === null && !wrong ? "" : words(gravest(problems)));
        said = fresh;
      }
    },
  };
}

/** As many as there are rows: those that are wrong, and those worth knowing. */
function headOf(wrong, known, of) {
  const then = of === null ? "" : ` at ${absolute(of)}`;
  const also = known ? `, ${wrong ? known : many(known, "thing")} to know` : "";
  if (!wrong) return `${then ? "All was well" : "All is well"}${also}${then}`;
  const verbs = then ? ["thing needed", "things needed"] : ["thing needs", "things need"];
  return `${many(wrong, ...verbs)} a look${also}${then}`;
}

/** With those that are over since a short while, where they were. */
function lingering(problems, before) {
  const keys = new Set(problems.map((one) => one.key));
  const rows = [...problems];
  before.forEach((one, n) => {
    const over = one.over ?? Date.now();
    if (!keys.has(one.key) && Date.now() - over < LINGERS_MS) rows.splice(n, 0, { ...one, over });
  });
  return rows;
}

/** Those that are wrong; the others are worth knowing. */
export const gravest = (problems) => problems.filter((one) => one.severity !== "info");

/** Each with a key that stays while its words change: they tell ages and counts. */
function numbered(problems) {
  const seen = new Map();
  return problems.map((one) => {
    const key = `${one.kind} ${one.name}`;
    const n = seen.get(key) ?? 0;
    seen.set(key, n + 1);
    return { ...one, key: `${key} ${n}` };
  });
}

function words(problems) {
  return problems.length ? problems.map((one) => one.what).join(". ") : "All is well again";
}

function problemRow() {
  const sign = icon("warn");
  const what = el("span", { class: "what" });
  const more = el("span", { class: "more" });
  const why = el("span", { class: "why" });
  const link = el("a", {}, sign, el("span", {}, what, more, " ", why), icon("next"));
  const node = el("li", {}, link);
  return {
    node,
    update(problem) {
      const [tone, name] = severityLook(problem.severity);
      set(node, "data-tone", problem.over ? "over" : tone);
      sign.become(problem.over ? "ok" : name);
      const cut = problem.what.search(/: | since /);
      put(what, `${problem.over ? "Over: " : ""}${cut < 0 ? problem.what : problem.what.slice(0, cut)}`);
      put(more, cut < 0 ? "" : problem.what.slice(cut));
      put(why, problem.why);
      set(link, "href", (PLACES[problem.kind] ?? (() => "#/"))(problem.name));
    },
  };
}
