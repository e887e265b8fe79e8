// What asks back before it acts, and what says how it went.

import { el, icon } from "./dom.js";

/** Tell how something went, for a while. `tone` is "ok", "warn" or "bad". */
export function say(text, tone = "ok", link = null) {
  const node = el("div", { class: "toast", "data-tone": tone }, icon(tone));
  node.append(el("p", { text }));
  if (link) node.append(el("a", { href: link.href, text: link.text }));
  const gone = () => node.remove();
  // What went well is told in place of what went well before: there is little room over the page.
  if (tone !== "bad") for (const one of document.querySelectorAll('.toast:not([data-tone="bad"])')) one.remove();
  node.append(el("button", { type: "button", "aria-label": "Close", text: "×", on: { click: gone } }));
  document.getElementById("toasts").append(node);
  setTimeout(gone, tone === "bad" ? 15000 : 6000);
}

/**
 * Ask before something is done. Gives what was written (or "" where nothing is asked for) once it
 * is confirmed, and null otherwise. Focus returns to where it was. `about`: what it concerns.
 */
export function ask({ title, text, about = [], confirm, danger = false, note = null }) {
  const before = document.activeElement;
  const field = note && el("textarea", { id: "note", rows: 3, maxlength: 500 });
  const yes = el("button", { class: danger ? "danger" : "primary", value: "yes", text: confirm });
  const form = el(
    "form",
    { method: "dialog" },
    el("h2", { id: "dialog-title", text: title }),
    el(
      "div",
      { id: "dialog-text" },
      ...about.filter(Boolean).map((one) => el("p", { class: "about", text: one })),
      el("p", { text }),
    ),
    note ? el("label", { for: "note", text: note }) : null,
    field,
    el("div", { class: "buttons" }, el("button", { value: "no", text: "Not now", formnovalidate: true }), yes),
  );
  const dialog = el("dialog", { "aria-labelledby": "dialog-title", "aria-describedby": "dialog-text" }, form);
  field?.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) yes.click();
  });
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      before?.focus?.();
      resolve(dialog.returnValue === "yes" ? (field?.value.trim() ?? "") : null);
    });
    document.body.append(dialog);
    dialog.showModal();
    (field ?? yes).focus();
  });
}

const SHORTCUTS = [
  ["g then o", "Overview"],
  ["g then s", "Schedules"],
  ["g then r", "Running"],
  ["g then q", "Queues"],
  ["g then j", "Jobs"],
  ["g then d", "Dead letters"],
  ["p", "Pause or resume the live view"],
  ["/", "To the filters"],
  ["t", "Light or dark"],
  ["?", "This help"],
  ["Esc", "Close a dialog"],
];

/** The shortcuts; `enabled` says whether single keys do anything, `onSwitch` hears of a change. */
export function help(enabled, onSwitch) {
  if (document.querySelector("dialog[open]")) return;
  const before = document.activeElement;
  const list = el("dl", { class: "keys" });
  for (const [keys, what] of SHORTCUTS) {
    const names = el("dt");
    keys.split(" then ").forEach((key, n) => {
      if (n) names.append(" then ");
      names.append(el("kbd", { text: key }));
    });
    list.append(names, el("dd", { text: what }));
  }
  const box = el("input", { type: "checkbox", id: "keys-on", on: { change: () => onSwitch(box.checked) } });
  box.checked = enabled;
  const dialog = el(
    "dialog",
    { "aria-labelledby": "dialog-title" },
    el(
      "form",
      { method: "dialog" },
      el("h2", { id: "dialog-title", text: "Keyboard shortcuts" }),
      list,
      el("p", { class: "check" }, box, el("label", { for: "keys-on", text: "Use single-key shortcuts" })),
      el("div", { class: "buttons" }, el("button", { class: "primary", text: "Close" })),
    ),
  );
  dialog.addEventListener("close", () => {
    dialog.remove();
    before?.focus?.();
  });
  document.body.append(dialog);
  dialog.showModal();
}
