// Filters that stand in the address, and the way to older pages.

import { el, put, set, show } from "../dom.js";

const ANY = "";

/** Choose one of what `options()` gives: texts, or `[value, text]`. */
export function choice(name, label, options) {
  const field = el("select", { id: `filter-${name}`, name });
  let offered = "";
  let chosen = ANY;
  function offer() {
    const all = options().map((one) => (Array.isArray(one) ? one : [one, one]));
    if (chosen !== ANY && !all.some(([value]) => value === chosen)) all.push([chosen, chosen]);
    const fresh = JSON.stringify(all);
    if (fresh === offered) return;
    offered = fresh;
    field.replaceChildren(
      el("option", { value: ANY, text: "any" }),
      ...all.map(([value, text]) => el("option", { value, text })),
    );
    field.value = chosen;
  }
  return {
    node: el("div", { class: "field" }, el("label", { for: `filter-${name}`, text: label }), field),
    read: (query) => field.value !== ANY && query.set(name, field.value),
    update(query) {
      chosen = query.get(name) ?? ANY;
      offer();
      field.value = chosen;
    },
    offer,
  };
}

/** A form of filters; a change goes into the address, and the view hears of it from there. */
export function filters(place, parts) {
  const clear = el("a", { class: "button small quiet", href: `#/${place}`, text: "Clear" });
  const node = el("form", { class: "filters", "aria-label": "Filters" }, ...parts.map((one) => one.node), clear);
  node.addEventListener("submit", (event) => event.preventDefault());
  node.addEventListener("change", () => {
    const query = new URLSearchParams();
    for (const one of parts) one.read(query);
    location.hash = addressOf(place, query);
  });
  return {
    node,
    update(query) {
      for (const one of parts) one.update(query);
      show(clear, query.size > 0);
    },
    offer: () => parts.forEach((one) => one.offer()),
  };
}

export function addressOf(place, query) {
  return `#/${place}${query.size ? `?${query}` : ""}`;
}

/** To what is older, and back to the newest. */
export function pager(place) {
  const newest = el("a", { class: "button small", text: "Newest" });
  const older = el("a", { class: "button small", text: "Older" });
  const said = el("span", { class: "faint" });
  const node = el("nav", { class: "pager", "aria-label": "Pages" }, newest, said, older);
  return {
    node,
    update(query, next) {
      const first = new URLSearchParams(query);
      first.delete("before");
      set(newest, "href", addressOf(place, first));
      show(newest, query.has("before"));
      put(said, query.has("before") ? "An older page: it does not follow what is new" : "");
      const then = new URLSearchParams(query);
      if (next) then.set("before", next);
      set(older, "href", addressOf(place, then));
      show(older, next);
    },
  };
}
