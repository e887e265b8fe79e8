// The parts of the state that cannot be asked while their store or their queue is down: what was
// known of them stays, and is marked as old.

import { el, put, set, show } from "./dom.js";
import { absolute } from "./format.js";

const SILENT = {
  schedules: "the store does not answer",
  running: "the store or the queue does not answer",
  queues: "the queue does not answer",
};

/**
 * A state with what was known before in place of what cannot be asked now. `old` has such parts,
 * each with the moment it is of, in ms since 1970; `null` for one, here and there, is: never known.
 */
export function kept(fresh, before) {
  const state = { ...fresh, heard: Date.now(), old: {} };
  for (const part of Object.keys(SILENT)) {
    if (fresh[part] !== null) continue;
    const was = before && part in before.old ? before.old[part] : before?.heard;
    state.old[part] = was ?? null;
    state[part] = before?.[part] ?? null;
  }
  return state;
}

/** What it is of, as a sentence. */
export const ofMoment = (heard) => `What you see is of ${absolute(heard)}.`;

/** A line that says of a part that it is old, or not known; `panel` shows it, and is marked. */
export function ageOf(part) {
  const node = el("p", { class: "age", hidden: true });
  return {
    node,
    update(state, panel) {
      const isOld = part in state.old;
      const known = state[part] !== null;
      show(node, isOld);
      if (isOld && known) put(node, `Old: ${SILENT[part]}. ${ofMoment(state.old[part])}`);
      else if (isOld) put(node, `Not known: ${SILENT[part]}.`);
      set(panel, "data-old", isOld && known);
    },
  };
}
