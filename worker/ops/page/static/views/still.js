// Keeps a list still while somebody is in it: what one is about to press does not move away.

import { button } from "../actions.js";
import { el, put, show } from "../dom.js";

/** Of the rows in `panel`; `again()` asks for them once more. `node` says how many are new. */
export function still(panel, again) {
  const count = el("span", { role: "status" });
  const open = button("Show", null, "small", async () => {
    moves = true;
    await again();
    document.querySelector("#view h1")?.focus({ preventScroll: true }); // for the button is gone
  });
  const node = el("span", { class: "news", hidden: true }, count, open);
  let known = [];
  let moves = true;

  const isHeld = () =>
    !moves && known.length > 0 &&
    (panel.matches(":hover") || panel.contains(document.activeElement) || document.querySelector("dialog[open]"));

  function tell(news) {
    put(count, news ? `${news} new` : "");
    show(node, news);
  }

  return {
    node,
    /** From here on the rows may be others altogether, once. */
    move() {
      moves = true;
    },
    /** These are gone by one's own doing. */
    drop(ids) {
      known = known.filter((one) => !ids.includes(one.id));
    },
    /** What to show of what was found: `gone` marks what is not there any more. */
    rows({ jobs, next }) {
      if (!isHeld()) {
        known = jobs;
        moves = false;
        tell(0);
        return known;
      }
      const found = new Map(jobs.map((one) => [one.id, one]));
      const oldest = next === null ? "" : (jobs.at(-1)?.created_at ?? "");
      const shown = new Set(known.map((one) => one.id));
      // What is older than all that was found may only be on the next page.
      known = known.map((one) => found.get(one.id) ?? { ...one, gone: one.created_at >= oldest });
      tell(jobs.filter((one) => !shown.has(one.id)).length);
      return known;
    },
  };
}
