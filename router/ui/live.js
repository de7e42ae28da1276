// When to look again. The fleet's live tail only says *that* something happened; what is shown is asked
// for anew, at most once a second, so filters and order are the router's and a busy fleet costs a viewer
// no more than a quiet one: while we do not read the tail, the router does not send it.

import { send } from "./api.js";

const PACE_MS = 1000;
const POLL_MS = 2000; // without a tail
const RETRY_TAIL_MS = 30000;

export const sleep = (ms, signal) =>
  new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done);
    if (signal.aborted) done();
  });

/** Calls `refresh()` now and after each change, until aborted. `refresh` handles its own problems. */
export async function watch(refresh, signal) {
  const tail = new Tail(signal);
  while (!signal.aborted) {
    await visible(signal);
    if (signal.aborted) return;
    await refresh();
    await sleep(PACE_MS, signal);
    await tail.change();
  }
}

/** Calls `refresh()` now and every `ms`, while the page is seen, until aborted. */
export async function every(ms, refresh, signal) {
  while (!signal.aborted) {
    await visible(signal);
    if (signal.aborted) return;
    await refresh();
    await sleep(ms, signal);
  }
}

async function visible(signal) {
  while (document.hidden && !signal.aborted) await sleep(250, signal);
}

class Tail {
  #signal;
  #reader = null;
  #notBefore = 0;

  constructor(signal) {
    this.#signal = signal;
  }

  /** Resolves after a change, or when there may have been one. */
  async change() {
    if (this.#signal.aborted) return;
    if (this.#reader === null) {
      if (performance.now() < this.#notBefore || !(await this.#open())) {
        await sleep(POLL_MS - PACE_MS, this.#signal);
      }
      return; // what happened before the tail was open is not in it
    }
    const text = new TextDecoder();
    try {
      for (;;) {
        const { done, value } = await this.#reader.read();
        if (done) break;
        if (text.decode(value, { stream: true }).includes("data:")) return;
      }
    } catch {
      // Cut off: the router has stopped, or the network has.
    }
    this.#reader = null;
  }

  async #open() {
    try {
      this.#reader = (await send("v1/traces/stream", { signal: this.#signal })).body.getReader();
      return true;
    } catch {
      this.#notBefore = performance.now() + RETRY_TAIL_MS;
      return false;
    }
  }
}
