// Asks the worker. What it refuses comes as a `Refused` that says why.

export class Refused extends Error {
  /** `errors`: what does not fit, each with its `loc`. */
  constructor(status, detail, errors = []) {
    super(detail);
    this.status = status;
    this.errors = errors;
  }
}

const PLACE = "worker.place";
const RETURN_MS = 15 * 60000;

/** Go where one signs in: the page itself, which the worker does not give to strangers. */
export function signIn() {
  // The form leads back here by itself; a link from the terminal opens in another tab.
  localStorage.setItem(PLACE, JSON.stringify({ hash: location.hash, at: Date.now() }));
  location.reload();
}

/** Go on where a session ended a short while ago, unless the address leads somewhere. */
export function returnHere() {
  const { hash, at } = JSON.parse(localStorage.getItem(PLACE) ?? "{}");
  localStorage.removeItem(PLACE);
  if (hash && !location.hash && Date.now() - at < RETURN_MS) window.history.replaceState(null, "", hash);
}

async function call(method, path, body) {
  const headers = { Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store",
    });
  } catch {
    throw new Refused(0, "the worker does not answer");
  }
  if (answer.status === 401) signIn();
  const said = await answer.json().catch(() => null);
  if (!answer.ok) {
    const detail = said?.detail ?? said?.title ?? `the worker answered ${answer.status}`;
    throw new Refused(answer.status, typeof detail === "string" ? detail : JSON.stringify(detail), said?.errors);
  }
  return said;
}

const API = "/api/v1";
const part = encodeURIComponent;

export const api = {
  session: () => call("GET", "/session"),
  leave: () => call("DELETE", "/session"),
  overview: () => call("GET", `${API}/overview`),
  schedule: (name) => call("GET", `${API}/schedules/${part(name)}`),
  tasks: () => call("GET", `${API}/tasks`),
  jobs: (query) => call("GET", `${API}/jobs?${query}`),
  job: (id) => call("GET", `${API}/jobs/${part(id)}`),
  payload: (id) => call("GET", `${API}/jobs/${part(id)}/payload`),
  run: (name) => call("POST", `${API}/schedules/${part(name)}/run`, {}),
  pause: (name, note) => call("POST", `${API}/schedules/${part(name)}/pause`, { note }),
  resume: (name) => call("POST", `${API}/schedules/${part(name)}/resume`, {}),
  act: (id, what) => call("POST", `${API}/jobs/${part(id)}/${what}`, {}),
  dead: (what, query) => call("POST", `${API}/dead/${what}`, query),
  enqueue: (name, wish) => call("POST", `${API}/tasks/${part(name)}/enqueue`, wish),
};
