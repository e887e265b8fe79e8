// Single keys, which can be turned off: whoever speaks to their computer types by accident.

const GO = { o: "#/", s: "#/schedules", r: "#/running", q: "#/queues", j: "#/jobs", d: "#/dead" };
const KEPT = "worker.keys";

export function shortcuts({ toggleLive, toggleTheme, help }) {
  let going = 0;
  const keys = {
    on: localStorage.getItem(KEPT) !== "off",
    turn(on) {
      keys.on = on;
      localStorage.setItem(KEPT, on ? "on" : "off");
    },
  };
  document.addEventListener("keydown", (event) => {
    if (!keys.on || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, textarea, select, dialog")) return;
    const after = Date.now() - going < 1500;
    going = 0;
    if (after && Object.hasOwn(GO, event.key)) location.hash = GO[event.key];
    else if (event.key === "g") going = Date.now();
    else if (event.key === "p") toggleLive();
    else if (event.key === "t") toggleTheme();
    else if (event.key === "?") help();
    else if (event.key === "/") {
      const field = document.querySelector("#view select, #view input");
      if (!field) return;
      event.preventDefault();
      field.focus();
    }
  });
  return keys;
}
