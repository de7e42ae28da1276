// The fleet: workers with their state and how they did, over time; replicas; the store.

import { askForKey, json, query } from "./api.js";
import { lines, spark, stackedBars } from "./charts.js";
import { h } from "./dom.js";
import { bytes, clock, count, duration, NOTHING, percent } from "./format.js";
import { every } from "./live.js";

const WINDOWS = { "5m": "5 min", "15m": "15 min", "1h": "1 h", "6h": "6 h", "24h": "24 h" };
const WINDOW = "15m";
const REFRESH_MS = 5000;

export function fleetView({ signal, tell }) {
  let window = WINDOW;
  let node = "";
  const windows = h("select", { "aria-label": "Window", onchange: () => go({ window: windows.value, node_id: node }) },
    Object.entries(WINDOWS).map(([name, words]) => h("option", { value: name }, `last ${words}`)));
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
    const [stats, listed, loads, readiness] = await Promise.allSettled([
      json(`v1/traces/stats?${query({ window, by: "node", series: 1 })}`, { signal }),
      json("workers", { signal, quiet: true }),
      json("get_loads", { signal, quiet: true }),
      ready(signal),
    ]);
    if (signal.aborted) return;
    tell(stats.status === "rejected" ? stats.reason : null);
    const told = stats.value?.window;
    const nodes = new Map(Object.entries(told?.by.node ?? {}));
    const whole = node === "" ? told?.total : nodes.get(node);
    scope.textContent = told === undefined ? "" : (node === "" ? "" : `${node}: `) +
      `${count(whole?.requests ?? 0)} requests ended since ${clock(told.since)}`;
    const steps = (told?.series ?? []).map((step) => ({ at: step.since, nodes: step.by.node, shown: node === "" ? step.total : step.by.node[node] }));
    charts.replaceChildren(...(told === undefined ? [] : drawn(whole, steps, { from: told.since, to: told.until })));
    const focused = workers.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    workers.replaceChildren(table(nodes, steps, listed, loads, node));
    if (focused !== null) [...workers.querySelectorAll("a")].find((a) => a.getAttribute("href") === focused)?.focus();
    others.replaceChildren(replicas(stats.value), store(stats.value, readiness.value));
  }

  return { title: "Fleet", element, update, keys: {} };
}

/** What /readiness says, also when that is no. */
async function ready(signal) {
  const answer = await fetch(new URL("readiness", document.baseURI), { signal, cache: "no-store" });
  return answer.json();
}

// --- over time ---------------------------------------------------------------------------------

/** How many of a summary's requests ended in one of these statuses. */
const ended = (summary, ...statuses) => statuses.reduce((all, status) => all + (summary?.requests_per_status[status] ?? 0), 0);
const requests = (summary) => Object.values(summary?.requests_per_status ?? {}).reduce((all, some) => all + some, 0);

function drawn(whole, steps, ends) {
  const each = (read) => steps.map((step) => (step.shown === undefined ? null : read(step.shown) ?? null));
  const counted = (...statuses) => steps.map((step) => ended(step.shown, ...statuses));
  const times = whole?.ttft_seconds || !whole?.duration_seconds ? "ttft_seconds" : "duration_seconds";
  const middle = whole?.[times];
  const rate = whole?.cache_hit_rate ?? null;
  return [
    stackedBars({
      ...ends, title: "Requests", format: count,
      said: `${count(ended(whole, "completed"))} completed, ${count(ended(whole, "failed"))} failed`,
      series: [
        { name: "completed", kind: "good", values: counted("completed") },
        { name: "cancelled", kind: "left", values: counted("cancelled") },
        { name: "rejected", kind: "warn", values: counted("rejected") },
        { name: "failed", kind: "bad", values: counted("failed") },
      ],
    }),
    lines({
      ...ends, title: times === "ttft_seconds" ? "Time to first token" : "Duration", format: duration,
      said: `p50 ${duration(middle?.p50)}, p95 ${duration(middle?.p95)}`,
      series: [
        { name: "p50", kind: "busy", values: each((step) => step[times]?.p50) },
        { name: "p95", kind: "warn", values: each((step) => step[times]?.p95) },
      ],
    }),
    lines({
      ...ends, title: "Prefix cache hit rate", format: percent, top: 1,
      said: rate === null ? "the workers do not tell (--enable-cache-report)" : `${percent(rate)} of the input, on average`,
      series: [{ name: "hit rate", kind: "good", values: each((step) => step.cache_hit_rate) }],
    }),
  ];
}

// --- workers -----------------------------------------------------------------------------------

function table(nodes, steps, listed, loads, selected) {
  const tokens = new Map((loads.value?.workers ?? []).map(({ worker, load }) => [worker, load]));
  const known = new Map((listed.value?.workers ?? []).map((worker) => [worker.node_id, worker]));
  const names = [...new Set([...known.keys(), ...nodes.keys()])].filter((name) => name !== "none");
  names.sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  const load = (worker) => tokens.get(worker.url) ?? tokens.get(worker.node_id);
  const row = (name) => {
    const worker = known.get(name);
    const did = nodes.get(name);
    const bad = ended(did, "failed");
    const [state, kind, why] = stateOf(worker);
    const token = worker === undefined ? undefined : load(worker);
    return h("tr", { class: name === selected && "chosen" },
      h("th", { scope: "row" },
        h("a", { href: `#/fleet?node_id=${encodeURIComponent(name)}`, title: "charts of this worker" }, name),
        worker && h("small", {}, worker.url), worker && h("small", {}, served(worker))),
      h("td", { "data-title": "State" }, h("span", { class: `status ${kind}`, title: why }, state)),
      h("td", { class: "number", "data-title": "In flight" }, worker === undefined ? NOTHING : count(worker.load)),
      h("td", { class: "number", "data-title": "Tokens" }, token === undefined || token < 0 ? NOTHING : count(token)),
      h("td", { class: "number", "data-title": "Requests" }, h("a", { href: `#/requests?node_id=${encodeURIComponent(name)}` }, count(requests(did)))),
      h("td", { class: "wide", "data-title": "Over time" }, spark(steps.map((step) => requests(step.nodes[name])))),
      h("td", { class: "number", "data-title": "Hit rate" }, percent(did?.cache_hit_rate)),
      h("td", { class: "number", "data-title": "TTFT p50" }, duration(did?.ttft_seconds?.p50)),
      h("td", { class: "number", "data-title": "TTFT p95" }, duration(did?.ttft_seconds?.p95)),
      h("td", { class: `number ${bad > 0 ? "bad" : ""}`, "data-title": "Failed" }, did === undefined ? NOTHING : `${count(bad)} (${percent(bad / requests(did))})`));
  };
  const locked = listed.status === "rejected" && listed.reason.status === 401;
  return h("section", { class: "card", "aria-labelledby": "workers-title" },
    h("h2", { id: "workers-title" }, "Workers"),
    locked && h("p", { class: "muted" }, "State and load need the administrator's key. ",
      h("button", { type: "button", class: "quiet", onclick: () => askForKey() }, "Enter it")),
    names.length === 0 ? h("p", { class: "empty" }, "No worker is known.") :
    h("div", { class: "scroll" }, h("table", { class: "workers" },
      h("caption", { class: "unseen" }, "Workers, their state, and how they did in the window"),
      h("thead", {}, h("tr", {}, ["Worker", "State", "In flight", "Tokens", "Requests", "Over time", "Hit rate", "TTFT p50", "TTFT p95", "Failed"].map((title, i) =>
        h("th", { scope: "col", class: i > 1 && i !== 5 && "number" }, title)))),
      h("tbody", {}, names.map(row)))));
}

/** Its part of a pair, its model and its engine, where they are known. */
function served({ worker_type: role, model_id: model, engine, engine_version: version }) {
  return [role === "regular" ? null : role, model === "unknown" ? null : model, engine && `${engine} ${version ?? ""}`.trim()].filter(Boolean).join(" · ");
}

/** Whether it gets requests, in a word, its colour, and why not. */
function stateOf(worker) {
  if (worker === undefined) return ["not listed", "", "this router does not list it"];
  if (worker.draining) return ["draining", "rejected", "it is being removed: what runs may end, nothing new comes"];
  if (!worker.is_healthy) return ["unhealthy", "failed", "it fails its health checks"];
  if (worker.breaker === "open") return ["breaker open", "failed", "too many requests failed there: it gets none for a while"];
  if (worker.breaker === "half_open") return ["on trial", "rejected", "its breaker was open: a few requests try it out"];
  return ["healthy", "completed", null];
}

// --- replicas and store ------------------------------------------------------------------------

function replicas(stats) {
  const names = [...(stats?.replicas ?? [])].sort();
  return h("section", { class: "card", "aria-labelledby": "replicas-title" },
    h("h2", { id: "replicas-title" }, "Routers"),
    names.length === 0 ? h("p", { class: "muted" }, "The store does not tell.") :
    h("dl", { class: "facts" }, names.map((name) => h("div", {},
      h("dt", {}, name),
      h("dd", {}, h("span", { class: "status completed" }, "alive"), " ",
        h("a", { href: `#/requests?router_id=${encodeURIComponent(name)}` }, "its requests"))))));
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
