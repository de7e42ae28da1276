// The fleet: workers with their state and how they did, over time; replicas; the store.

import { askForKey, json, now, query, send } from "./api.js";
import { lines, spark, stackedBars } from "./charts.js";
import { h } from "./dom.js";
import { bytes, clock, count, duration, NOTHING, percent, quantile } from "./format.js";
import { every } from "./live.js";
import { TERMINAL } from "./running.js";

const WINDOWS = { "5m": 300, "15m": 900, "1h": 3600, "6h": 21600 };
const WINDOW = "15m";
const BINS = 30;
const PAGES = 3;
const FIELDS = "key,node_id,status,timestamp,router_id,ttft_seconds,duration_seconds,input_tokens,cached_tokens";
const REFRESH_MS = 5000;

export function fleetView({ signal, tell }) {
  let window = WINDOW;
  let node = "";
  const windows = h("select", { "aria-label": "Window", onchange: () => go({ window: windows.value, node_id: node }) },
    Object.keys(WINDOWS).map((name) => h("option", { value: name }, `last ${name.replace("m", " min").replace("h", " h")}`)));
  const scope = h("span", { role: "status", class: "muted" });
  const all = h("button", { type: "button", class: "quiet", hidden: true, onclick: () => go({ window }) }, "All workers");
  const charts = h("div", { class: "charts" });
  const workers = h("div");
  const others = h("div", { class: "columns" });
  const element = h("section", { "aria-labelledby": "fleet-title" },
    h("div", { class: "toolbar" }, h("h1", { id: "fleet-title" }, "Fleet"), windows, all, scope),
    charts, workers, others);

  function go(values) {
    const asked = query({ ...values, window: values.window === WINDOW ? "" : values.window });
    location.hash = asked ? `#/fleet?${asked}` : "#/fleet";
  }

  let run = new AbortController();
  signal.addEventListener("abort", () => run.abort());
  function update(params) {
    window = Object.hasOwn(WINDOWS, params.get("window") ?? "") ? params.get("window") : WINDOW;
    node = params.get("node_id") ?? "";
    windows.value = window;
    all.hidden = node === "";
    run.abort();
    run = new AbortController();
    every(REFRESH_MS, () => refresh(run.signal), run.signal);
  }

  async function refresh(signal) {
    const [recent, stats, listed, loads, readiness] = await Promise.allSettled([
      requestsOf(window, signal),
      json("v1/traces/stats", { signal }),
      json("workers", { signal, quiet: true }),
      json("get_loads", { signal, quiet: true }),
      ready(signal),
    ]);
    if (signal.aborted) return;
    const failed = [recent, stats].find((one) => one.status === "rejected");
    tell(failed === undefined ? null : failed.reason);
    const { rows, complete } = recent.value ?? { rows: [], complete: true };
    const to = now();
    const from = complete || rows.length === 0 ? to - WINDOWS[window] * 1000 : Date.parse(rows.at(-1).timestamp);
    const timeline = new Timeline(from, to);
    const mine = node === "" ? rows : rows.filter((row) => row.node_id === node);
    scope.textContent =
      (node === "" ? "" : `${node}: `) + `${count(mine.length)} requests` +
      (complete ? "" : `, of the newest ${count(rows.length)}, since ${clock(new Date(from))}`);
    charts.replaceChildren(...drawn(mine, timeline));
    const focused = workers.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    workers.replaceChildren(table(rows, timeline, listed, loads, node));
    if (focused !== null) [...workers.querySelectorAll("a")].find((a) => a.getAttribute("href") === focused)?.focus();
    others.replaceChildren(replicas(rows, stats.value), store(stats.value, readiness.value));
  }

  return { title: "Fleet", element, update, keys: {} };
}

// --- what is asked -----------------------------------------------------------------------------

/** The newest requests of the window, newest first; `complete` if they are all there are. */
async function requestsOf(window, signal) {
  const rows = [];
  let asked = query({ since: window, limit: 1000, fields: FIELDS });
  for (let page = 0; page < PAGES && asked !== ""; page++) {
    const answer = await send(`v1/traces?${asked}`, { signal });
    rows.push(...(await answer.json()));
    asked = /\?([^>]*)>; rel="next"/.exec(answer.headers.get("Link") ?? "")?.[1] ?? "";
  }
  return { rows, complete: asked === "" };
}

/** What /readiness says, also when that is no. */
async function ready(signal) {
  const answer = await fetch(new URL("readiness", document.baseURI), { signal, cache: "no-store" });
  return answer.json();
}

/** Equal bins of time. */
class Timeline {
  constructor(from, to) {
    this.from = new Date(from);
    this.to = new Date(to);
    this.width = Math.max(1, (to - from) / BINS);
  }

  /** Rows by bin. */
  split(rows) {
    const bins = Array.from({ length: BINS }, () => []);
    for (const row of rows) {
      const bin = Math.floor((Date.parse(row.timestamp) - this.from) / this.width);
      if (bin >= 0) bins[Math.min(bin, BINS - 1)].push(row);
    }
    return bins;
  }
}

// --- over time ---------------------------------------------------------------------------------

const broken = (row) => row.status === "failed" || row.status === "lost";
const ttfts = (rows) => rows.map((row) => row.ttft_seconds).filter((value) => value !== undefined);
const durations = (rows) => rows.map((row) => row.duration_seconds).filter((value) => value !== undefined);

/** Cached part of the input of those requests whose worker told; null where none did. */
function hitRate(rows) {
  let input = 0;
  let cached = 0;
  for (const row of rows) {
    if (row.cached_tokens === undefined || !row.input_tokens) continue;
    input += row.input_tokens;
    cached += Math.min(row.cached_tokens, row.input_tokens);
  }
  return input === 0 ? null : cached / input;
}

function drawn(rows, timeline) {
  const bins = timeline.split(rows);
  const ends = { from: timeline.from, to: timeline.to };
  const counted = (test) => bins.map((bin) => bin.filter(test).length);
  const streamed = ttfts(rows).length > 0;
  const times = streamed ? ttfts : durations;
  const rate = hitRate(rows);
  return [
    stackedBars({
      ...ends, title: "Requests", format: count,
      said: `${count(rows.filter((row) => row.status === "completed").length)} completed, ${count(rows.filter(broken).length)} failed or lost`,
      series: [
        { name: "completed", kind: "good", values: counted((row) => row.status === "completed") },
        { name: "running", kind: "busy", values: counted((row) => !TERMINAL.has(row.status)) },
        { name: "cancelled", kind: "left", values: counted((row) => row.status === "cancelled") },
        { name: "rejected", kind: "warn", values: counted((row) => row.status === "rejected") },
        { name: "failed, lost", kind: "bad", values: counted(broken) },
      ],
    }),
    lines({
      ...ends, title: streamed ? "Time to first token" : "Duration", format: duration,
      said: `p50 ${duration(quantile(times(rows), 0.5))}, p95 ${duration(quantile(times(rows), 0.95))}`,
      series: [
        { name: "p50", kind: "busy", values: bins.map((bin) => quantile(times(bin), 0.5)) },
        { name: "p95", kind: "warn", values: bins.map((bin) => quantile(times(bin), 0.95)) },
      ],
    }),
    lines({
      ...ends, title: "Prefix cache hit rate", format: percent, top: 1,
      said: rate === null ? "the workers do not tell (--enable-cache-report)" : `${percent(rate)} of the input`,
      series: [{ name: "hit rate", kind: "good", values: bins.map(hitRate) }],
    }),
  ];
}

// --- workers -----------------------------------------------------------------------------------

function table(rows, timeline, listed, loads, selected) {
  const tokens = new Map((loads.value?.workers ?? []).map(({ worker, load }) => [worker, load]));
  const known = new Map((listed.value?.workers ?? []).map((worker) => [worker.node_id, worker]));
  const nodes = [...new Set([...known.keys(), ...rows.map((row) => row.node_id)])].filter((name) => name !== "none");
  nodes.sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  const load = (worker) => tokens.get(worker.url) ?? tokens.get(worker.node_id);
  const row = (name) => {
    const worker = known.get(name);
    const own = rows.filter((one) => one.node_id === name);
    const ended = own.filter((one) => TERMINAL.has(one.status));
    const bad = ended.filter(broken).length;
    const [state, kind] = stateOf(worker);
    const token = worker === undefined ? undefined : load(worker);
    return h("tr", { class: name === selected && "chosen" },
      h("th", { scope: "row" },
        h("a", { href: `#/fleet?node_id=${encodeURIComponent(name)}`, title: "charts of this worker" }, name),
        worker && h("small", {}, worker.url), worker && worker.model_id !== "unknown" && h("small", {}, worker.model_id)),
      h("td", { "data-title": "State" }, h("span", { class: `status ${kind}` }, state)),
      h("td", { class: "number", "data-title": "In flight" }, worker === undefined ? NOTHING : count(worker.load)),
      h("td", { class: "number", "data-title": "Tokens" }, token === undefined || token < 0 ? NOTHING : count(token)),
      h("td", { class: "number", "data-title": "Requests" }, h("a", { href: `#/requests?node_id=${encodeURIComponent(name)}` }, count(own.length))),
      h("td", { class: "wide", "data-title": "Over time" }, spark(timeline.split(own).map((bin) => bin.length))),
      h("td", { class: "number", "data-title": "Hit rate" }, percent(hitRate(own))),
      h("td", { class: "number", "data-title": "TTFT p50" }, duration(quantile(ttfts(own), 0.5))),
      h("td", { class: "number", "data-title": "TTFT p95" }, duration(quantile(ttfts(own), 0.95))),
      h("td", { class: `number ${bad > 0 ? "bad" : ""}`, "data-title": "Failed" }, ended.length === 0 ? NOTHING : `${count(bad)} (${percent(bad / ended.length)})`));
  };
  const locked = listed.status === "rejected" && listed.reason.status === 401;
  return h("section", { class: "card", "aria-labelledby": "workers-title" },
    h("h2", { id: "workers-title" }, "Workers"),
    locked && h("p", { class: "muted" }, "State and load need the administrator's key. ",
      h("button", { type: "button", class: "quiet", onclick: () => askForKey() }, "Enter it")),
    nodes.length === 0 ? h("p", { class: "empty" }, "No worker is known.") :
    h("div", { class: "scroll" }, h("table", { class: "workers" },
      h("caption", { class: "unseen" }, "Workers, their state, and how they did in the window"),
      h("thead", {}, h("tr", {}, ["Worker", "State", "In flight", "Tokens", "Requests", "Over time", "Hit rate", "TTFT p50", "TTFT p95", "Failed"].map((title, i) =>
        h("th", { scope: "col", class: i > 1 && i !== 5 && "number" }, title)))),
      h("tbody", {}, nodes.map(row)))));
}

function stateOf(worker) {
  if (worker === undefined) return ["not listed", ""];
  if (worker.draining) return ["draining", "rejected"];
  return worker.is_healthy ? ["healthy", "completed"] : ["unhealthy", "failed"];
}

// --- replicas and store ------------------------------------------------------------------------

function replicas(rows, stats) {
  const alive = stats?.replicas;
  const served = new Map();
  for (const { router_id: id } of rows) if (id) served.set(id, (served.get(id) ?? 0) + 1);
  const names = [...new Set([...(alive ?? []), ...served.keys()])].sort();
  const state = (name) =>
    alive === undefined ? null : h("span", { class: `status ${alive.includes(name) ? "completed" : ""}` }, alive.includes(name) ? "alive" : "gone");
  return h("section", { class: "card", "aria-labelledby": "replicas-title" },
    h("h2", { id: "replicas-title" }, "Routers"),
    names.length === 0 ? h("p", { class: "muted" }, "None has served a request in the window.") :
    h("dl", { class: "facts" }, names.map((name) => h("div", {},
      h("dt", {}, name),
      h("dd", {}, state(name), " ", h("a", { href: `#/requests?router_id=${encodeURIComponent(name)}` }, `${count(served.get(name) ?? 0)} requests`))))));
}

function store(stats, readiness) {
  const said = [];
  if (readiness !== undefined) {
    said.push(["This router", h("span", { class: `status ${readiness.status === "ready" ? "completed" : "failed"}` },
      readiness.status === "ready" ? `ready, ${count(readiness.healthy_workers)} of ${count(readiness.total_workers)} workers healthy` : readiness.reason)]);
  }
  if (stats !== undefined) {
    const { store, config } = stats;
    said.push(
      ["Trace store", h("span", { class: `status ${store.state === "up" ? "completed" : "failed"}` }, `${store.kind}, ${store.state}`)],
      ["Traces held", `${count(stats.active_traces)} of at most ${count(config.max_entries)}, for ${duration(config.ttl_seconds)}`],
      ["Requests ever", count(stats.total_requests)],
      ["Running", count(stats.in_flight)],
      ["Oldest", stats.oldest_trace ? clock(stats.oldest_trace) : NOTHING],
      ["Not yet stored", count(store.buffered)],
      ["Memory", `${bytes(store.memory_bytes)}${store.memory_limit_bytes > 0 ? ` of ${bytes(store.memory_limit_bytes)}` : ""}`],
      ["Dropped here", h("span", { class: store.dropped > 0 && "bad" }, count(store.dropped))],
    );
  } else said.push(["Trace store", "does not answer"]);
  return h("section", { class: "card", "aria-labelledby": "store-title" },
    h("h2", { id: "store-title" }, "Store"),
    h("dl", { class: "facts" }, said.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))));
}
