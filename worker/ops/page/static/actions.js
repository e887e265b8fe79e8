// What a person can do, as buttons. Whoever may only read gets none of them.

import { api } from "./api.js";
import { ask, say } from "./dialogs.js";
import { el, icon, put, set, show } from "./dom.js";
import { many } from "./format.js";
import { canRun } from "./words.js";

const SHORT = 100;

let mayAct = false;
let learn = null;

/** Who looks; `learned(schedule)` is told how a schedule stands after something was done to it. */
export function allow(role, learned) {
  mayAct = role === "full";
  learn = learned;
}
export const allowed = () => mayAct;

/** Do something, and tell how it went; whether it was done. */
export async function attempt(doing, done, link = null) {
  try {
    const answer = await doing();
    const told = typeof done === "function" ? done(answer) : done;
    if (told) say(told, "ok", typeof link === "function" ? link(answer) : link);
    return true;
  } catch (error) {
    say(error.message, "bad");
    return false;
  }
}

/** A button that is busy for as long as its work goes on. */
export function button(text, sign, kind, work) {
  const word = el("span", { text });
  const drawing = sign ? icon(sign) : null;
  const node = el("button", { type: "button", class: kind }, drawing, word);
  node.addEventListener("click", async () => {
    if (node.getAttribute("aria-busy") === "true") return;
    set(node, "aria-busy", "true");
    try {
      await work();
    } finally {
      set(node, "aria-busy", null);
    }
  });
  node.become = (other, otherSign) => {
    put(word, other);
    drawing?.become(otherSign);
  };
  return node;
}

/** Run now, pause, resume: of the schedule that `update` was told last. */
export function scheduleActions() {
  const node = el("div", { class: "actions" });
  let seen = null;
  if (!mayAct) return { node, update() {} };
  const run = button("Run now", "play", "small", () =>
    attempt(async () => learn(await api.run(seen.name)), `${seen.name} will run as soon as it may`),
  );
  const hold = button("Pause", "pause", "small", () => (seen.pause ? resume(seen) : pause(seen)));
  node.append(run, hold);
  show(node, false);
  return {
    node,
    update(schedule) {
      seen = schedule;
      show(node, true);
      show(run, canRun(schedule));
      set(run, "aria-label", `Run now: ${schedule.name}`);
      show(hold, schedule.schedule !== null || schedule.pause);
      hold.become(schedule.pause ? "Resume" : "Pause", schedule.pause ? "play" : "pause");
      set(hold, "aria-label", `${schedule.pause ? "Resume" : "Pause"} ${schedule.name}`);
    },
  };
}

async function pause(schedule) {
  const note = await ask({
    title: `Pause ${schedule.name}?`,
    text: "No slot of it will run until somebody resumes it. A run that goes on is not ended.",
    note: "Why? Whoever comes after you will read it.",
    confirm: "Pause",
  });
  if (note !== null) await attempt(async () => learn(await api.pause(schedule.name, note)), `${schedule.name} is paused`);
}

const resume = (schedule) =>
  attempt(async () => learn(await api.resume(schedule.name)), `${schedule.name} is resumed`);

const BECAME = {
  cancel: { done: "is cancelled", asked: "still runs: cancel requested" },
  retry: { done: "is back in its queue" },
  drop: { done: "is dropped" },
};

const QUESTIONS = {
  cancel: { text: "If it waits, it will not run. If it runs, it is requested to end; code that cannot be interrupted goes on, and its result counts. It is not tried again.", confirm: "Cancel the job" },
  drop: { text: "It is deleted, with its parameters and its error. It cannot be had back.", confirm: "Drop", danger: true },
};

/** Do something to one job, `{id, task, error}`, once it is confirmed; whether it was done. */
export async function actOn({ id, task, error }, what) {
  const failed = error ? `${error.type}: ${error.message}` : null;
  if (Object.hasOwn(QUESTIONS, what)) {
    const title = `${what === "drop" ? "Drop" : "Cancel"} ${task}?`;
    if ((await ask({ ...QUESTIONS[what], title, about: [failed, id] })) === null) return false;
  }
  return attempt(
    () => api.act(id, what),
    (answer) => {
      const told = BECAME[what][answer.what];
      if (!told) throw new Error(`${task} ${id}: that cannot be done now; its state has changed meanwhile`);
      return `${task} ${told}${failed ? ` (${short(failed)})` : ""}`;
    },
  );
}

const short = (text) => (text.length > SHORT ? `${text.slice(0, SHORT)}…` : text);

/** Do something to every dead letter that `query` means, after its count was shown. */
export async function actOnDead(what, query) {
  let count, before, more;
  const counted = await attempt(
    async () => ({ count, before, more } = await api.dead(what, { ...query, dry_run: true })),
    null,
  );
  if (!counted) return false;
  if (!count) {
    say("There is none left that this would change", "bad");
    return false;
  }
  // Those that die from here on are not among the counted ones, and stay.
  const wish = query.ids ? query : { ...query, before };
  const letters = many(count, "dead letter") + (more ? " (the first of more)" : "");
  const sure = await ask(
    what === "drop"
      ? { title: `Drop ${letters}?`, text: "They are deleted, with their parameters and errors. They cannot be had back.", confirm: `Drop ${letters}`, danger: true }
      : { title: `Retry ${letters}?`, text: "Each goes back into its queue, with all of its attempts.", confirm: `Retry ${letters}` },
  );
  if (sure === null) return false;
  return attempt(
    () => api.dead(what, { ...wish, dry_run: false }),
    ({ done, left }) =>
      `${what === "drop" ? "Dropped" : "Retried"} ${many(done, "dead letter")}` +
      (left ? `; ${left} had changed meanwhile` : ""),
  );
}
