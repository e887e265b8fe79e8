// Builds the page and changes it in place. Every text goes through textContent: nothing that a
// worker says is ever read as HTML.

const SVG = "http://www.w3.org/2000/svg";
// What would be invisible, or turn the text around it: shown as what it is.
const UNSEEN =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** A value as a text in which every character can be seen. */
export function plain(value) {
  return String(value ?? "").replace(
    UNSEEN,
    (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/** An element. `attributes`: `class`, `on` (listeners by event), `text`, and any attribute. */
export function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same for a part of a drawing. */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(node, { on = {}, text, ...attributes }, children) {
  for (const [name, value] of Object.entries(attributes)) set(node, name, value);
  for (const [event, listener] of Object.entries(on)) node.addEventListener(event, listener);
  if (text !== undefined) put(node, text);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** Change an attribute, if it has to change; null, undefined and false take it away. */
export function set(node, name, value) {
  if (value === null || value === undefined || value === false) node.removeAttribute(name);
  else {
    const wanted = value === true ? "" : plain(value);
    if (node.getAttribute(name) !== wanted) node.setAttribute(name, wanted);
  }
}

/** Change a text, if it has to change: a selection in it survives when it does not. */
export function put(node, value) {
  const wanted = plain(value);
  if (node.textContent !== wanted) node.textContent = wanted;
}

/** The same for a name: where it has to be broken, that is after a mark in it. */
export function name(node, value) {
  const wanted = plain(value);
  if (node.textContent === wanted) return;
  const parts = wanted.split(/(?<=[_.:/-])/);
  node.replaceChildren(...parts.flatMap((part, n) => (n ? [el("wbr"), part] : [part])));
}

/** Show a node, or not. */
export function show(node, shown) {
  if (node.hidden === Boolean(shown)) node.hidden = !shown;
}

/** A drawing from the set, for the eye only. */
export function icon(name) {
  const use = svg("use", { href: `#i-${name}` });
  const node = svg("svg", { class: "icon", "aria-hidden": "true" }, use);
  node.become = (other) => set(use, "href", `#i-${other}`);
  return node;
}

/** Have all drawings here: one that is needed once the worker is gone could not be fetched. */
export async function fetchIcons() {
  const text = await (await fetch("/page/icons.svg")).text();
  const drawings = new DOMParser().parseFromString(text, "image/svg+xml").documentElement;
  set(drawings, "class", "drawings");
  set(drawings, "aria-hidden", "true");
  document.body.append(document.importNode(drawings, true));
}

const rowsOf = new WeakMap();

/**
 * Keep the children of `parent` as `items` say, each node for as long as its key is there.
 * `make(item)` gives `{node, update(item)}`.
 */
export function keyed(parent, items, key, make) {
  if (!rowsOf.has(parent)) rowsOf.set(parent, new Map());
  const rows = rowsOf.get(parent);
  const wanted = new Set(items.map(key));
  for (const [name, row] of rows) {
    if (!wanted.has(name)) {
      row.node.remove();
      rows.delete(name);
    }
  }
  const held = parent.contains(document.activeElement) ? document.activeElement : null;
  let place = parent.firstElementChild;
  for (const item of items) {
    const name = key(item);
    let row = rows.get(name);
    if (row === undefined) {
      row = make(item);
      rows.set(name, row);
    }
    if (row.node === place) place = place.nextElementSibling;
    else parent.insertBefore(row.node, place);
    row.update(item);
  }
  if (held && held.isConnected && document.activeElement !== held) {
    held.focus({ preventScroll: true });
  }
}

/** The way back from the page of one thing. */
export function crumbs(list, href, one) {
  return el(
    "nav",
    { class: "crumbs", "aria-label": "Where this is" },
    el("a", { href, text: list }),
    el("span", { "aria-hidden": "true", text: "/" }),
    el("span", { "aria-current": "page", text: one }),
  );
}

/** A table with these heads: `[text, class]` each. `node` goes into the page, rows into `body`. */
export function table(label, heads) {
  const body = el("tbody");
  const row = el("tr");
  for (const [text, kind] of heads) {
    const head = el("th", { scope: "col", class: kind });
    if (text) put(head, text);
    else head.append(el("span", { class: "unseen", text: "Actions" }));
    row.append(head);
  }
  const node = el("table", { "aria-label": label }, el("thead", {}, row), body);
  return { node, body };
}

/** A cell, which says on a phone what it is. */
export function cell(label, kind, ...children) {
  return el("td", { class: kind, "data-label": label }, ...children);
}
