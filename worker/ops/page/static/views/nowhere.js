// An address that leads to nothing.

import { el } from "../dom.js";

export function nowhere() {
  const node = el(
    "section",
    {},
    el("div", { class: "title" }, el("h1", { text: "Nothing is here" })),
    el("p", { class: "empty" }, "No view has the address ", el("code", { text: location.hash }), ". ", el("a", { href: "#/", text: "To the overview" })),
  );
  return { title: "Nothing is here", node, update() {} };
}
