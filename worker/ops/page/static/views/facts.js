// A list of names and values, for the pages of one thing.

import { el, put } from "../dom.js";

/** The facts with these names; `update` takes a text or a node for each, null leaves one out. */
export function facts(names) {
  const node = el("dl", { class: "facts" });
  const rows = new Map();
  for (const name of names) {
    const value = el("dd");
    const row = el("div", {}, el("dt", { text: name }), value);
    rows.set(name, { row, value });
    node.append(row);
  }
  return {
    node,
    update(values) {
      for (const [name, { row, value }] of rows) {
        const told = values[name];
        row.hidden = told === null || told === undefined;
        if (told instanceof Node) {
          // A moment ages on its own; as long as it means the same, what is selected stays.
          if (value.firstChild?.outerHTML !== told.outerHTML) value.replaceChildren(told);
        } else put(value, told);
      }
    },
  };
}
