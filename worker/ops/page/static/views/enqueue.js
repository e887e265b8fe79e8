// Asks for a job. What does not fit is said by the worker, in its own words.

import { allowed, button } from "../actions.js";
import { api } from "../api.js";
import { say } from "../dialogs.js";
import { el, put, set, show } from "../dom.js";

export function enqueue({ item }) {
  const task = el("select", { id: "task", name: "task" });
  const params = el("textarea", { id: "params", rows: 8, spellcheck: "false", class: "mono", "aria-describedby": "params-hint" });
  const hint = el("p", { id: "params-hint", class: "faint", text: "A JSON object." });
  const shape = el("pre");
  const shapes = el("details", {}, el("summary", { text: "What they may be" }), shape);
  const id = el("input", { id: "id", autocomplete: "off" });
  const delay = el("input", { id: "delay", placeholder: "5m", autocomplete: "off" });
  const priority = el("input", { id: "priority", type: "number", min: -100, max: 100, placeholder: "0" });
  const error = el("pre", { class: "callout bad wrap", role: "alert", hidden: true });
  const send = button("Enqueue", "add", "primary", submit);
  const form = el(
    "form",
    { class: "panel pad form", on: { submit: (event) => event.preventDefault() } },
    field("Task", task),
    el("div", { class: "field" }, el("label", { for: "params", text: "Parameters" }), params, hint, shapes),
    el("div", { class: "three" }, field("Id (optional)", id), field("Delay (optional)", delay), field("Priority (optional)", priority)),
    error,
    el("div", { class: "buttons" }, send),
  );
  const none = el("p", { class: "empty", hidden: true });
  const node = el(
    "section",
    {},
    el("p", { class: "crumbs" }, el("a", { href: "#/jobs", text: "Jobs" })),
    el("div", { class: "title" }, el("h1", { text: "Enqueue a job" })),
    none,
    form,
  );
  let tasks = [];

  async function load() {
    try {
      tasks = (await api.tasks()).tasks.filter((one) => one.queue);
    } catch (refused) {
      put(none, refused.message);
    }
    if (!allowed()) put(none, "You signed in with the read-only token, and cannot ask for jobs.");
    else if (!tasks.length && !none.textContent) put(none, "No task here has a queue, so none can be asked for.");
    show(form, allowed() && tasks.length);
    show(none, !allowed() || !tasks.length);
    task.replaceChildren(...tasks.map((one) => el("option", { value: one.name, text: one.name })));
    if (tasks.some((one) => one.name === item)) task.value = item;
    describe();
  }

  function describe() {
    const one = tasks.find((each) => each.name === task.value);
    const schema = one?.params_schema;
    show(shapes, schema);
    put(shape, schema ? JSON.stringify(schema, null, 2) : "");
    params.value = JSON.stringify(template(schema), null, 2);
    show(error, false);
  }

  async function submit() {
    show(error, false);
    set(params, "aria-invalid", null);
    try {
      const wish = { params: parsed(params.value) };
      if (id.value.trim()) wish.id = id.value.trim();
      if (delay.value.trim()) wish.delay = delay.value.trim();
      if (priority.value) wish.priority = Number(priority.value);
      const made = await api.enqueue(task.value, wish);
      const link = { href: `#/jobs/${encodeURIComponent(made.id)}`, text: "Open it" };
      say(made.created ? `${task.value} is enqueued` : "There is such a job already", "ok", link);
      id.value = "";
    } catch (refused) {
      put(error, refused.message);
      show(error, true);
      set(params, "aria-invalid", "true");
    }
  }

  task.addEventListener("change", describe);
  load();
  return { title: "Enqueue a job", node, update() {} };
}

function field(label, input) {
  return el("div", { class: "field" }, el("label", { for: input.id, text: label }), input);
}

function parsed(text) {
  try {
    return JSON.parse(text || "{}");
  } catch (error) {
    throw new Error(`The parameters are no JSON: ${error.message}`);
  }
}

const BLANK = { string: "", integer: 0, number: 0, boolean: false, array: [], object: {}, null: null };

/** What has to be filled in, with what stands for it if nothing is said. */
function template(schema) {
  const made = {};
  for (const [name, of] of Object.entries(schema?.properties ?? {})) {
    if ("default" in of) made[name] = of.default;
    else if (schema.required?.includes(name)) made[name] = BLANK[of.type] ?? null;
  }
  return made;
}
