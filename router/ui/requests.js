// The live table of requests.

import { hasKey, json, query, send } from "./api.js";
import { arrange, h } from "./dom.js";
import { clock, count, duration, NOTHING, percent } from "./format.js";
import { every, watch } from "./live.js";
import { badge, STATUSES, TERMINAL, tookText, traceHash } from "./running.js";

const PAGE_ROWS = 100;
const FIELDS =
  "key,request_id,node_id,status,timestamp,cache_hit_rate,cache_source,route,model,http_status,error," +
  "input_tokens,output_tokens,queue_seconds,ttft_seconds,duration_seconds,label";

// Each filter: its parameter of GET /v1/traces, and how it is chosen: from values that the stats name,
// from a fixed list, or as free text.
const FILTERS = [
  { name: "node_id", label: "Worker", from: "requests_per_node" },
  { name: "model", label: "Model", from: "requests_per_model" },
  { name: "since", label: "Arrived", options: [["", "any time"], ["5m", "last 5 min"], ["15m", "last 15 min"], ["1h", "last hour"], ["6h", "last 6 h"], ["24h", "last 24 h"]] },
  { name: "min_duration_seconds", label: "Slower than (s)", text: "number" },
  { name: "min_ttft_seconds", label: "TTFT over (s)", text: "number", more: true },
  { name: "route", label: "Route", from: "requests_per_route", more: true },
  { name: "prefill_node_id", label: "Prefill worker", text: "text", more: true },
  { name: "policy", label: "Policy", from: "requests_per_policy", more: true },
  { name: "reason", label: "Reason", text: "text", more: true },
  { name: "cache", label: "Prefix cache", options: [["", "any"], ["hit", "hit"], ["miss", "miss"], ["unknown", "unknown"]], more: true },
  { name: "http_status", label: "HTTP status", text: "text", hint: "429 or 5xx", more: true },
  { name: "error_type", label: "Error", options: ["", "no_worker", "queue_full", "queue_timeout", "bad_request", "too_large", "connect", "first_byte_timeout", "idle_timeout", "total_timeout", "worker_status", "worker_cut", "worker_abort", "client_gone", "router_lost"].map((word) => [word, word || "any"]), more: true },
  { name: "router_id", label: "Router", text: "text", more: true },
  { name: "session_id", label: "Session", text: "text", more: true },
  { name: "label", label: "Label", text: "text", more: true },
  { name: "request_id_prefix", label: "Id begins with", text: "text", more: true },
];
const EXPORTS = [["ndjson", "NDJSON", "ndjson"], ["csv", "CSV, a row per request", "csv"], ["decisions-csv", "CSV, a row per candidate", "decisions.csv"], ["perfetto", "Perfetto, a timeline", "perfetto.json"], ["mooncake", "Mooncake, for replay", "jsonl"]];

const tokens = (trace) =>
  trace.input_tokens === undefined && trace.output_tokens === undefined
    ? NOTHING
    : `${count(trace.input_tokens)} → ${count(trace.output_tokens)}`;

const COLUMNS = [
  ["Time", "time", (t) => h("time", { datetime: t.timestamp, title: t.timestamp }, clock(t.timestamp))],
  ["Request", "id", (t) => h("a", { href: traceHash(t), title: t.request_id }, t.request_id)],
  ["Status", "state", (t) => [badge(t.status), t.http_status >= 400 && h("span", { class: "code" }, String(t.http_status)), t.error && h("span", { class: "code", title: t.error.message }, t.error.type)]],
  ["Worker", "worker", (t) => t.node_id],
  ["Model", "model", (t) => t.model ?? NOTHING],
  ["Route", "route", (t) => t.route ?? NOTHING],
  ["In line", "number minor", (t) => duration(t.queue_seconds)],
  ["TTFT", "number ttft", (t) => duration(t.ttft_seconds)],
  ["Took", "number took", tookText],
  ["Cache", "number cache", (t) => h("span", { class: t.cache_source === "predicted" && "guess", title: t.cache_source === "predicted" ? "predicted by the router" : null }, percent(t.cache_hit_rate))],
  ["Tokens", "number tokens", tokens],
];

let lastOpened = ""; // gets the focus back when the list is shown again

export function requestsView({ signal, tell }) {
  const rows = new Map(); // key of a trace -> its row, and what it was made of
  let filters = {};
  let paused = false;
  let older = [];
  let newest = [];
  let next = "";
  let run = new AbortController();
  signal.addEventListener("abort", () => run.abort());

  // --- parts ----------------------------------------------------------------------------------

  const chips = h("div", { class: "chips", role: "group", "aria-label": "Status" });
  const inputs = new Map(FILTERS.map((filter) => [filter.name, control(filter)]));
  const field = (filter) => h("label", {}, h("span", {}, filter.label), inputs.get(filter.name));
  const more = h("details", { class: "more" },
    h("summary", {}, "More filters"),
    h("div", { class: "fields" }, FILTERS.filter((f) => f.more).map(field)));
  const form = h("form", { class: "filters", "aria-label": "Filters", onsubmit: (e) => e.preventDefault(), onchange: chosen },
    h("div", { class: "fields" }, FILTERS.filter((f) => !f.more).map(field)), more);
  const pauseButton = h("button", { type: "button", "aria-pressed": "false", onclick: () => pause(!paused) }, "Pause");
  const clearButton = h("button", { type: "button", class: "quiet", onclick: () => go({}) }, "Clear filters");
  const state = h("span", { class: "muted", role: "status" });
  const exportMenu = h("details", { class: "menu" },
    h("summary", {}, "Export"),
    h("div", {}, EXPORTS.map(([format, text, ending]) =>
      h("button", { type: "button", class: "quiet", onclick: () => download(format, ending) }, text))));
  const body = h("tbody");
  const table = h("table", { class: "requests" },
    h("caption", { class: "unseen" }, "Requests, newest first"),
    h("thead", {}, h("tr", {}, COLUMNS.map(([title, kind]) => h("th", { scope: "col", class: kind }, title)))),
    body);
  const empty = h("p", { class: "empty", hidden: true });
  const moreButton = h("button", { type: "button", hidden: true, onclick: loadOlder }, "Load older");
  const element = h("section", { "aria-labelledby": "requests-title" },
    h("h1", { id: "requests-title", class: "unseen" }, "Requests"),
    chips, form,
    h("div", { class: "toolbar" }, pauseButton, clearButton, state, h("span", { class: "gap" }), exportMenu),
    h("div", { class: "scroll" }, table), empty,
    h("div", { class: "foot" }, moreButton));

  function control(filter) {
    if (filter.text === "number") return h("input", { name: filter.name, inputmode: "decimal", pattern: "[0-9]*\\.?[0-9]*", size: 6 });
    if (filter.text) return h("input", { name: filter.name, placeholder: filter.hint, size: 12, spellcheck: "false", autocapitalize: "off" });
    return h("select", { name: filter.name }, (filter.options ?? [["", "any"]]).map(([value, text]) => h("option", { value }, text)));
  }

  // --- filters --------------------------------------------------------------------------------

  function chosen() {
    if (!form.checkValidity()) return form.reportValidity();
    const values = Object.fromEntries(FILTERS.map(({ name }) => [name, inputs.get(name).value.trim()]));
    return go({ ...values, status: filters.status });
  }

  function go(values) {
    const asked = query(values);
    location.hash = asked ? `#/requests?${asked}` : "#/requests";
  }

  function update(params) {
    const known = new Set(["status", ...FILTERS.map((f) => f.name)]);
    filters = Object.fromEntries([...params].filter(([name]) => known.has(name)));
    for (const filter of FILTERS) {
      const value = filters[filter.name] ?? "";
      const input = inputs.get(filter.name);
      if (input.tagName === "SELECT") offer(input, [], value);
      input.value = value;
      if (value && filter.more) more.open = true;
    }
    clearButton.hidden = Object.keys(filters).length === 0;
    showChips();
    restart();
  }

  function offer(select, values, selected) {
    const have = new Set([...select.options].map((option) => option.value));
    for (const value of [...values, selected]) {
      if (!have.has(value)) select.append(h("option", { value }, value));
    }
  }

  let perStatus = {};
  let held = null;
  function showChips() {
    const chip = (status, text, n) =>
      h("button", {
        type: "button", "aria-pressed": String((filters.status ?? "") === status), class: `chip ${status}`,
        onclick: () => go({ ...filters, status }),
      }, text, n !== null && h("b", {}, count(n)));
    const focused = [...chips.children].indexOf(document.activeElement);
    chips.replaceChildren(
      chip("", "All", held),
      ...STATUSES.filter((status) => TERMINAL.has(status) || perStatus[status] || filters.status === status)
        .map((status) => chip(status, status, perStatus[status] ?? 0)));
    chips.children[focused]?.focus();
  }

  async function refreshStats() {
    try {
      const stats = await json("v1/traces/stats", { signal });
      perStatus = stats.requests_per_status;
      held = stats.active_traces;
      for (const { name, from } of FILTERS) {
        if (from) offer(inputs.get(name), Object.keys(stats[from] ?? {}).sort(), inputs.get(name).value);
      }
      showChips();
    } catch {
      // The list tells what is wrong; without stats there are only no numbers at the chips.
    }
  }

  // --- rows -----------------------------------------------------------------------------------

  function restart() {
    run.abort();
    run = new AbortController();
    older = [];
    if (paused) refresh(run.signal);
    else watch(() => refresh(run.signal), run.signal);
  }

  async function refresh(signal) {
    try {
      const page = await ask(query({ ...filters, limit: PAGE_ROWS, fields: FIELDS }), signal);
      newest = page.rows;
      next = page.next;
      older = [];
      tell(null);
      showRows(page.partial);
    } catch (problem) {
      if (signal.aborted) return;
      tell(problem);
      state.textContent = "";
      if (problem.status !== 0 && newest.length === 0) table.hidden = true;
    }
  }

  async function loadOlder() {
    if (!paused) pause(true);
    moreButton.disabled = true;
    try {
      const page = await ask(next, run.signal);
      older.push(...page.rows);
      next = page.next;
      showRows(page.partial);
    } catch (problem) {
      tell(problem);
    } finally {
      moreButton.disabled = false;
    }
  }

  async function ask(asked, signal) {
    const answer = await send(`v1/traces?${asked}`, { signal });
    const link = answer.headers.get("Link") ?? "";
    return {
      rows: await answer.json(),
      next: /\?([^>]*)>; rel="next"/.exec(link)?.[1] ?? "",
      partial: answer.headers.get("X-Trace-Partial"),
    };
  }

  function showRows(partial) {
    const traces = [...newest, ...older];
    const kept = new Set();
    const wanted = traces.map((trace) => {
      const key = trace.key || trace.request_id;
      kept.add(key);
      const text = JSON.stringify(trace);
      let row = rows.get(key);
      if (row === undefined) rows.set(key, (row = { text: "", tr: h("tr", { onclick: opened }) }));
      if (row.text !== text) {
        const focused = row.tr.contains(document.activeElement);
        row.tr.className = TERMINAL.has(trace.status) ? "" : "open";
        row.tr.dataset.key = key;
        row.tr.replaceChildren(...COLUMNS.map(([title, kind, cell]) =>
          h("td", { class: kind, "data-title": title }, cell(trace))));
        row.text = text;
        if (focused) row.tr.querySelector("a").focus();
      }
      return row.tr;
    });
    for (const key of rows.keys()) if (!kept.has(key)) rows.delete(key);
    arrange(body, wanted);
    table.hidden = traces.length === 0;
    empty.hidden = traces.length !== 0;
    const filtered = Object.keys(filters).length > 0;
    empty.textContent = filtered
      ? "No request matches these filters."
      : "No requests yet. Send one to this router, and it appears here.";
    moreButton.hidden = next === "";
    const parts = [paused ? "paused" : "live", `${count(traces.length)} shown`];
    if (partial === "store-unavailable") parts.push("the trace store is away: only what this router knows");
    if (partial === "scan-budget") parts.push("not all was searched: load older, or narrow the time");
    const said = parts.join(" · ");
    if (state.textContent !== said) state.textContent = said;
    if (lastOpened !== "" && kept.has(lastOpened)) {
      rows.get(lastOpened).tr.querySelector("a").focus();
      lastOpened = "";
    }
  }

  function opened(event) {
    lastOpened = event.currentTarget.dataset.key;
    if (event.target.closest("a") || String(getSelection()) !== "") return;
    event.currentTarget.querySelector("a").click();
  }

  function pause(wanted) {
    if (wanted === paused) return;
    paused = wanted;
    pauseButton.textContent = paused ? "Go on" : "Pause";
    pauseButton.setAttribute("aria-pressed", String(paused));
    element.classList.toggle("paused", paused);
    if (paused) {
      run.abort();
      run = new AbortController();
      state.textContent = state.textContent.replace("live", "paused");
    } else restart();
  }

  function step(by) {
    const links = [...body.querySelectorAll("td.id a")];
    const at = links.indexOf(document.activeElement);
    links[Math.max(0, Math.min(links.length - 1, at === -1 ? 0 : at + by))]?.focus();
  }

  // --- export ---------------------------------------------------------------------------------

  async function download(format, ending) {
    exportMenu.open = false;
    const path = `v1/traces/export?${query({ format, ...filters })}`;
    const link = h("a", { download: `traces.${ending}` });
    if (!hasKey()) {
      link.href = new URL(path, document.baseURI);
      link.click();
      return;
    }
    try {
      link.href = URL.createObjectURL(await (await send(path, { signal })).blob());
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    } catch (problem) {
      tell(problem);
    }
  }

  every(10000, refreshStats, signal);
  return {
    title: "Requests",
    element,
    update,
    keys: { j: () => step(1), k: () => step(-1), p: () => pause(!paused) },
  };
}
