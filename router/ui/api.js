// The router's public endpoints, with the key where one is asked for. The key stays in this tab.

const KEY = "trace-router-key";
let asking = null;
let ask = null;
let offset = 0; // the router's clock less the browser's, in ms

/** `wanted(wrong)` asks the user for a key; its promise is the key. */
export function onKeyWanted(wanted) {
  ask = wanted;
}

export class Problem extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** Milliseconds since the epoch on the router's clock. */
export const now = () => Date.now() + offset;

/** A request to `path`, answered with 2xx; else Problem is thrown. After a 401 the user is asked for a
 * key and the request made again, unless `quiet`. */
export async function send(path, { signal, quiet = false } = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    let answer;
    try {
      answer = await fetch(new URL(path, document.baseURI), {
        signal,
        cache: "no-store",
        headers: key === null ? {} : { Authorization: `Bearer ${latin(key)}` },
      });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem(0, "unreachable", "The router cannot be reached.");
    }
    const date = Date.parse(answer.headers.get("Date") ?? "");
    if (Number.isFinite(date) && Math.abs(date - Date.now()) > 2000) offset = date - Date.now();
    if (answer.ok) return answer;
    if (answer.status !== 401 || quiet) throw await problem(answer);
    if (key === sessionStorage.getItem(KEY)) await askForKey(key !== null);
  }
}

export const json = async (path, options) => (await send(path, options)).json();

export async function askForKey(wrong = false) {
  asking ??= ask(wrong).finally(() => (asking = null));
  sessionStorage.setItem(KEY, await asking);
}

export const hasKey = () => sessionStorage.getItem(KEY) !== null;

/** A query of what is set in `values`. */
export function query(values) {
  const set = Object.entries(values).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return new URLSearchParams(set).toString();
}

async function problem(answer) {
  try {
    const { error } = await answer.json();
    return new Problem(answer.status, error.code, error.message);
  } catch {
    return new Problem(answer.status, "", `The router answered ${answer.status}.`);
  }
}

// A header holds bytes, which fetch takes as Latin-1; the router reads them as UTF-8.
const latin = (text) => String.fromCharCode(...new TextEncoder().encode(text));
