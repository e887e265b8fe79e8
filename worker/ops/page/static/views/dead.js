// The dead letters: what failed for good, with its error, to be retried or dropped.

import { actOn, actOnDead, allowed, button } from "../actions.js";
import { api } from "../api.js";
import { cell, el, keyed, name, put, set, show, table } from "../dom.js";
import { many, moment } from "../format.js";
import { ofMoment } from "../parts.js";
import { choice, filters, pager } from "./filters.js";
import { asApi, namesOf } from "./jobs.js";
import { still } from "./still.js";

export function dead({ query, state, live }) {
  const { node: sheet, body } = table("Dead letters", [
    ...(allowed() ? [["", "pick"]] : []), ["Job", "w-23"], ["Queue", "w-queue"], ["Error"], ["Failed", "w-when"],
    ["Attempts", "right w-count"], ...(allowed() ? [["", "w-two"]] : []),
  ]);
  set(sheet, "class", "cards dead");
  const picked = new Set();
  const empty = el("p", { class: "empty good", text: "No dead letters. What failed for good would be here." });
  const error = el("p", { class: "callout bad", role: "alert", hidden: true });
  const pages = pager("dead");
  const bar = filters("dead", [
    choice("task", "Task", () => namesOf(state())),
    choice("queue", "Queue", () => (state()?.queues ?? []).map((one) => one.name)),
  ]);
  let shown = [];
  const bulk = allowed() ? bulkBar({ picked, wish: () => meant(query), shown: () => shown, done: afterAll }) : null;
  const panel = el("div", { class: "panel" }, bulk?.node, sheet, empty);
  const held = still(panel, refresh);
  const node = el(
    "section",
    {},
    el("div", { class: "title" }, el("h1", { text: "Dead letters" }), held.node),
    bar.node,
    error,
    panel,
    pages.node,
  );
  let asking = null;
  let heard = null;

  async function refresh() {
    const asked = (asking = asApi(query));
    asked.set("dead", "true");
    try {
      const found = await api.jobs(asked);
      if (asked !== asking) return;
      // They come by when they were asked for; what died last is what one looks for.
      found.jobs.sort((a, b) => Date.parse(b.finished_at) - Date.parse(a.finished_at));
      const rows = held.rows(found);
      shown = rows.filter((job) => !job.gone).map((job) => job.id);
      for (const id of picked) if (!shown.includes(id)) picked.delete(id);
      keyed(body, rows, (job) => job.id, (job) => row(job, picked, () => bulk?.update(), after));
      show(sheet, rows.length);
      show(empty, !rows.length);
      show(error, false);
      heard = Date.now();
      set(panel, "data-old", false);
      show(panel, true);
      bulk?.update();
      pages.update(query, found.next);
    } catch (refused) {
      put(error, heard ? `${refused.message}. ${ofMoment(heard)}` : `Not known: ${refused.message}`);
      show(error, true);
      set(panel, "data-old", heard !== null);
      show(panel, heard !== null);
    }
  }

  /** One of them was acted on; whoever did it by the keyboard goes on with the next. */
  async function after(id, node) {
    const next = node.nextElementSibling ?? node.previousElementSibling;
    held.drop([id]);
    await refresh();
    if (document.activeElement === document.body) next?.querySelector("a")?.focus({ preventScroll: true });
  }

  function afterAll() {
    held.move();
    return refresh();
  }

  bar.update(query);
  show(empty, false);
  show(sheet, false);
  pages.update(query, null);
  bulk?.update();
  refresh();
  return {
    title: "Dead letters",
    node,
    filter(fresh) {
      query = fresh;
      heard = null;
      held.move();
      picked.clear();
      bar.update(query);
      refresh();
    },
    update() {
      bar.offer();
      if (live.is !== "paused" && !query.has("before")) refresh();
    },
  };
}

/** All that the filters mean, whatever page of it is shown. */
function meant(query) {
  const wish = {};
  for (const name of ["task", "queue"]) if (query.get(name)) wish[name] = query.get(name);
  return wish;
}

function bulkBar({ picked, wish, shown, done }) {
  const all = el("input", { type: "checkbox", id: "pick-all" });
  const said = el("span", { class: "faint", role: "status" });
  const act = async (what) => {
    const query = picked.size ? { ids: [...picked] } : wish();
    if (await actOnDead(what, query)) {
      picked.clear();
      done();
    }
  };
  const retry = button("Retry all", "retry", "small", () => act("retry"));
  const drop = button("Drop all", "drop", "small", () => act("drop"));
  all.addEventListener("change", () => {
    for (const id of shown()) all.checked ? picked.add(id) : picked.delete(id);
    for (const box of document.querySelectorAll("input[name=pick]")) box.checked = all.checked;
    update();
  });
  function update() {
    const count = picked.size;
    all.checked = count > 0 && count === shown().length;
    all.indeterminate = count > 0 && count < shown().length;
    put(said, count ? `${many(count, "letter")} chosen` : "");
    retry.become(count ? `Retry ${count}` : "Retry all …", "retry");
    drop.become(count ? `Drop ${count}` : "Drop all …", "drop");
    show(node, shown().length);
  }
  const node = el(
    "div",
    { class: "bulk" },
    el("span", { class: "pick-all" }, all, el("label", { for: "pick-all", text: "Choose all shown" })),
    said,
    el("div", { class: "actions end" }, retry, drop),
  );
  return { node, update };
}

function row(job, picked, onPick, after) {
  const box = el("input", { type: "checkbox", name: "pick", "aria-label": `Choose ${job.id}` });
  box.checked = picked.has(job.id);
  box.addEventListener("change", () => {
    if (box.checked) picked.add(job.id);
    else picked.delete(job.id);
    onPick();
  });
  const act = async (what) => {
    if (await actOn(job, what)) await after(job.id, node);
  };
  const retry = button("Retry", "retry", "small", () => act("retry"));
  const drop = button("Drop", "drop", "small", () => act("drop"));
  set(retry, "aria-label", `Retry ${job.id}`);
  set(drop, "aria-label", `Drop ${job.id}`);
  const link = el("a", { class: "name", href: `#/jobs/${encodeURIComponent(job.id)}` });
  const id = el("span", { class: "mono faint clip" });
  const queue = el("span");
  const kind = el("strong");
  const message = el("span");
  const when = moment();
  const attempts = el("span", { class: "num" });
  const actions = el("div", { class: "actions" }, retry, drop);
  const gone = el("span", { class: "faint", text: "not here any more" });
  const node = el(
    "tr",
    {},
    allowed() ? el("td", { class: "pick" }, box) : null,
    el("th", { scope: "row" }, el("span", { class: "stack" }, link, id)),
    cell("Queue", "", queue),
    cell("Error", "grow", el("span", { class: "error two" }, kind, " ", message)),
    cell("Failed", "", when.node),
    cell("Attempts", "right", attempts),
    allowed() ? cell("", "right", actions, gone) : null,
  );
  return {
    node,
    update(fresh) {
      set(node, "data-gone", fresh.gone);
      show(actions, !fresh.gone);
      show(gone, fresh.gone);
      box.disabled = Boolean(fresh.gone);
      name(link, fresh.task);
      put(id, fresh.id);
      put(queue, fresh.queue);
      put(kind, fresh.error?.type ?? "No error was recorded");
      put(message, fresh.error?.message ?? "");
      when.update(fresh.finished_at);
      put(attempts, fresh.attempts);
    },
  };
}
