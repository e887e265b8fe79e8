// Asks the worker. What it refuses comes as a `Refused` that says why.

export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/** Go where one signs in: the page itself, which the worker does not give to strangers. */
export function signIn() {
  location.reload();
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
    throw new Refused(answer.status, typeof detail === "string" ? detail : JSON.stringify(detail));
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
