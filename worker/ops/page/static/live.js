// The stream of states. Read by hand instead of through EventSource, for that neither tells a
// status, nor shows the comments by which a quiet stream is known from a dead one.

import { signIn } from "./api.js";

const FIRST_WAIT_MS = 1000;
const LONGEST_WAIT_MS = 30000;
const SILENCE_MS = 45000;
const HIDDEN_MS = 300000;

export class Live {
  /** `onState(state)` for each state; `onChange()` whenever `is` has changed. */
  constructor(onState, onChange) {
    this.is = "connecting";
    this.heard = null;
    this.nextTry = null;
    this.onState = onState;
    this.onChange = onChange;
    this.connection = null;
    this.hurry = null;
    document.addEventListener("visibilitychange", () => this.noticeHidden());
  }

  start() {
    this.become("connecting");
    this.run();
  }

  pause() {
    this.connection?.abort();
    this.connection = null;
    this.become("paused");
  }

  resume() {
    if (this.is === "paused") this.start();
  }

  tryNow() {
    this.hurry?.();
  }

  /** A page that nobody sees shall cost nothing for long. */
  noticeHidden() {
    clearTimeout(this.hiding);
    if (document.hidden) {
      this.hiding = setTimeout(() => {
        this.asleep = this.is !== "paused";
        if (this.asleep) this.pause();
      }, HIDDEN_MS);
    } else if (this.asleep) {
      this.asleep = false;
      this.resume();
    } else this.tryNow();
  }

  become(what) {
    this.is = what;
    this.onChange();
  }

  async run() {
    const connection = new AbortController();
    this.connection = connection;
    const ended = () => this.connection !== connection;
    let wait = FIRST_WAIT_MS;
    while (!ended()) {
      try {
        for await (const state of states(connection.signal, () => (this.heard = Date.now()))) {
          if (ended()) return;
          wait = FIRST_WAIT_MS;
          this.nextTry = null;
          this.hand(state);
          if (this.is !== "live") this.become("live");
        }
      } catch (error) {
        if (ended()) return;
        if (error.status === 401) return signIn();
      }
      if (ended()) return;
      this.nextTry = Date.now() + wait;
      this.become("lost");
      await this.pauseFor(wait);
      wait = Math.min(LONGEST_WAIT_MS, wait * 2 * (0.8 + 0.4 * Math.random()));
    }
  }

  /** A mistake in drawing is no lost connection, and has to be seen. */
  hand(state) {
    try {
      this.onState(state);
    } catch (error) {
      reportError(error);
    }
  }

  pauseFor(ms) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.hurry = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}

async function* states(ended, onSign) {
  const silence = new AbortController();
  const stop = () => silence.abort();
  ended.addEventListener("abort", stop);
  let timer = setTimeout(stop, SILENCE_MS);
  try {
    const answer = await fetch("/api/v1/events", {
      headers: { Accept: "text/event-stream" },
      cache: "no-store",
      signal: silence.signal,
    });
    if (!answer.ok) throw Object.assign(new Error("refused"), { status: answer.status });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      onSign();
      clearTimeout(timer);
      timer = setTimeout(stop, SILENCE_MS);
      const blocks = (rest + value).replaceAll("\r\n", "\n").split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const data = dataOf(block);
        if (data !== null) yield JSON.parse(data);
      }
    }
  } finally {
    clearTimeout(timer);
    ended.removeEventListener("abort", stop);
    silence.abort();
  }
}

function dataOf(block) {
  const lines = block.split("\n");
  if (!lines.includes("event: state")) return null;
  const data = lines.filter((line) => line.startsWith("data:")).map((line) => line.slice(5));
  return data.join("\n");
}
