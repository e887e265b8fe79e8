// Asks for a job. What does not fit is said by the worker, in its own words.

import { allowed, button } from "../actions.js";
import { api } from "../api.js";
import { say } from "../dialogs.js";
import { crumbs, el, put, set, show } from "../dom.js";

export function enqueue({ item }) {
  const task = el("select", { id: "task", name: "task" });
  const params = el("textarea", { id: "params", rows: 8, spellcheck: "false", class: "mono", "aria-describedby": "params-hint" });
  const hint = el("p", { id: "params-hint", class: "faint", text: "A JSON object." });
  const shape = el("pre");
  const shapes = el("details", {}, el("summary", { text: "What they may be" }), shape);
  const id = el("input", { id: "id", autocomplete: "off" });
  const delay = el("input", { id: "delay", placeholder: "5m", autocomplete: "off" });
  const priority = el("input", { id: "priority", type: "number", min: -100, max: 100, placeholder: "0" });
  const error = el("pre", { class: "callout bad wrap", id: "fault", role: "alert", hidden: true });
  const inputs = { params, id, delay, priority };
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
    crumbs("Jobs", "#/jobs", "Enqueue"),
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
    blame(null);
  }

  /** Say what does not fit, and mark and open the field where it stands; null: all of them fit. */
  function blame(name, ...said) {
    for (const [one, input] of Object.entries(inputs)) {
      set(input, "aria-invalid", one === name ? "true" : null);
      const hints = [one === "params" ? "params-hint" : null, one === name ? "fault" : null];
      set(input, "aria-describedby", hints.filter(Boolean).join(" ") || null);
    }
    error.replaceChildren(...said);
    show(error, said.length);
    inputs[name]?.focus();
  }

  async function submit() {
    blame(null);
    try {
      const wish = { params: parsed(params.value) };
      if (id.value.trim()) wish.id = id.value.trim();
      if (delay.value.trim()) wish.delay = delay.value.trim();
      if (priority.value) wish.priority = Number(priority.value);
      const made = await api.enqueue(task.value, wish);
      const link = { href: `#/jobs/${encodeURIComponent(made.id)}`, text: "Open it" };
      if (!made.created) {
        const there = "There is such a job already, and it stays as it was: what stands here was not taken. ";
        blame(wish.id === made.id ? "id" : null, there, el("a", link));
        return;
      }
      say(`${task.value} is enqueued`, "ok", link);
      // What holds for one job alone is not meant for the next one.
      for (const one of [id, delay, priority]) one.value = "";
    } catch (refused) {
      blame(placeOf(refused, task.value), el("span", { text: refused.message }));
    }
  }

  task.addEventListener("change", describe);
  load();
  return { title: "Enqueue a job", node, update() {} };
}

/** Which field it is that does not fit, by what the worker says of it: `TASK: FIELD: why`. */
function placeOf({ status, errors = [], message }, task) {
  if (status === 409) return "id"; // another job has it
  if (status !== undefined && status !== 400 && status !== 422) return null;
  const ofTask = message.startsWith(`${task}: `);
  if (ofTask && errors.length) return "params"; // which may have such names, too
  const said = ofTask ? message.slice(task.length + 2) : message;
  return /^(id|delay|priority): /.exec(said)?.[1] ?? "params";
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
