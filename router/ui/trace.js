// One request: how it went, where its time went, and why this worker.

import { json, now } from "./api.js";
import { h } from "./dom.js";
import { count, duration, number, percent } from "./format.js";
import { every } from "./live.js";
import { badge, TERMINAL, tookText } from "./running.js";
import { story, ticks } from "./story.js";
import { NUMBERS, QUALITIES, REASONS } from "./words.js";

export function traceView({ id, signal, tell }) {
  const content = h("div", { class: "trace" }, h("p", { class: "muted" }, "Loading…"));
  const element = h("section", { "aria-labelledby": "trace-title" },
    h("p", { class: "back" }, h("a", { href: "#/requests" }, "← Requests")),
    content);
  let text = "";
  let ended = new AbortController();
  signal.addEventListener("abort", () => ended.abort());

  async function refresh() {
    let trace;
    try {
      trace = await json(`v1/traces/${encodeURIComponent(id)}`, { signal });
    } catch (problem) {
      if (signal.aborted) return;
      if (problem.status === 404) {
        ended.abort();
        content.replaceChildren(missing(id));
      } else tell(problem);
      return;
    }
    tell(null);
    const running = !TERMINAL.has(trace.status);
    const fresh = JSON.stringify(trace);
    if (fresh !== text) {
      const raw = content.querySelector("details.raw")?.open ?? false;
      content.replaceChildren(...sections(trace));
      content.querySelector("details.raw").open = raw;
      text = fresh;
    } else if (running) content.querySelector(".time").replaceWith(time(trace));
    if (!running) ended.abort();
  }

  return {
    title: id,
    element,
    update: () => every(1000, refresh, ended.signal), // its bars grow, also when nothing happens to it
    keys: { Escape: () => (location.hash = "#/requests") },
  };
}

const missing = (id) =>
  h("div", { class: "empty" },
    h("h1", { id: "trace-title" }, "No such trace"),
    h("p", {}, "Nobody knows ", h("code", {}, id), ". It may be older than what is kept, or the id may be another request's: a request can be found by its X-Request-Id, by the engine's id, and by its key."));

function sections(trace) {
  const receipts = trace.prefill_decision === undefined
    ? [receipt(trace, trace.decision, "Why this worker")]
    : [receipt(trace, trace.prefill_decision, "Why this worker for the prefill"), receipt(trace, trace.decision, "Why this worker for the decode")];
  return [heading(trace), trouble(trace), time(trace), ...receipts, facts(trace), raw(trace)].filter(Boolean);
}

function heading(trace) {
  return h("div", { class: "heading" },
    h("h1", { id: "trace-title" }, trace.request_id),
    h("button", { type: "button", class: "quiet copy", onclick: (event) => copy(event.currentTarget, trace.request_id) }, "Copy id"),
    h("p", { class: "summary" },
      badge(trace.status), " ",
      trace.http_status === undefined ? null : h("span", { class: "code" }, `HTTP ${trace.http_status}`), " ",
      h("span", {}, trace.method ?? "", " ", trace.route ?? ""), " → ",
      trace.prefill_node_id === undefined ? null : [h("a", { href: `#/requests?prefill_node_id=${encodeURIComponent(trace.prefill_node_id)}` }, trace.prefill_node_id), " → "],
      trace.node_id === "none" ? "no worker" : h("a", { href: `#/fleet?node_id=${encodeURIComponent(trace.node_id)}` }, trace.node_id),
      " · ", tookText(trace),
      trace.ttft_seconds === undefined ? null : ` · first token after ${duration(trace.ttft_seconds)}`,
      trace.cache_hit_rate === null ? null : ` · ${percent(trace.cache_hit_rate)} cached${trace.cache_source === "predicted" ? " (predicted)" : ""}`));
}

async function copy(button, text) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed here"; // browsers want https or localhost
  }
  setTimeout(() => (button.textContent = before), 1500);
}

function trouble(trace) {
  if (trace.error === undefined) return null;
  return h("div", { class: "error", role: "note" }, h("b", {}, trace.error.type), " ", trace.error.message);
}

// --- the waterfall -----------------------------------------------------------------------------

function time(trace) {
  const { total, open, lanes, shares } = story(trace, now());
  const place = (seconds) => `${total > 0 ? (seconds / total) * 100 : 0}%`;
  const bar = ({ from, to, kind, text }) => {
    const element = h("span", { class: `bar ${kind}`, title: `${text}: ${duration(to - from)}, from ${duration(from)}` });
    element.style.left = place(from);
    element.style.width = place(to - from);
    return element;
  };
  const axis = h("div", { class: "axis", "aria-hidden": "true" }, ticks(total, 4).map((at) => {
    const tick = h("span", { class: at > 0.9 * total && "end" }, at === 0 ? "0" : duration(at));
    tick.style.left = place(at);
    return tick;
  }));
  const lane = ({ label, note, parts }) => h("li", {},
    h("span", { class: "lane-name" }, label, " ", note && h("small", {}, note)),
    h("span", { class: "track" }, parts.map(bar)),
    h("span", { class: "lane-time" }, duration(parts.at(-1).to - parts[0].from)),
    h("span", { class: "unseen" }, parts.map((p) => `${p.text} ${duration(p.to - p.from)}, beginning ${duration(p.from)} after arrival. `)));
  return h("section", { class: "card time", "aria-labelledby": "time-title" },
    h("h2", { id: "time-title" }, open ? "Where its time goes" : "Where its time went"),
    h("ul", { class: "shares" }, shares.map((share) =>
      h("li", {}, h("i", { class: `key ${share.kind}` }), h("b", {}, duration(share.seconds)), ` ${share.text}`,
        h("small", {}, total > 0 ? percent(share.seconds / total) : "")))),
    h("ol", { class: "waterfall" }, lanes.map(lane)),
    axis);
}

// --- the receipt -------------------------------------------------------------------------------

function receipt(trace, decision, title) {
  if (decision === undefined) {
    return h("section", { class: "card" }, h("h2", {}, title),
      h("p", { class: "muted" }, TERMINAL.has(trace.status) ? "No worker was ever chosen." : "No worker has been chosen yet."));
  }
  const names = [...new Set(decision.candidates.flatMap((one) => Object.keys(one.numbers ?? {})))];
  const head = names.map((name) => {
    const [title, meaning] = NUMBERS[name] ?? [name, ""];
    return h("th", { scope: "col", class: "number", title: meaning }, title);
  });
  const row = (one) => h("tr", { class: one.chosen && "chosen" },
    h("th", { scope: "row" }, one.chosen && h("span", { class: "mark" }, "chosen"), one.node_id, h("small", {}, one.worker_url)),
    names.map((name) => h("td", { class: "number" }, (NUMBERS[name]?.[2] ?? number)(one.numbers?.[name]))));
  const tries = (trace.attempts ?? []).filter((attempt) => attempt.leg !== "prefill").length;
  const unshown = decision.candidate_count - decision.candidates.length;
  return h("section", { class: "card", "aria-label": title },
    h("h2", {}, title),
    h("p", {}, h("code", {}, decision.policy), " said ", h("b", {}, decision.reason), ". ", REASONS[decision.reason] ?? "",
      tries > 1 && ` This is the choice of attempt ${tries}.`),
    h("div", { class: "scroll" }, h("table", { class: "receipt" },
      h("caption", { class: "unseen" }, "Candidates and the numbers that were compared"),
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Candidate"), head)),
      h("tbody", {}, decision.candidates.map(row)))),
    h("p", { class: "muted" },
      unshown > 0 && `${count(unshown)} more candidates are not listed. `,
      `Decided in ${duration(decision.decision_seconds)}; ${decision.quality}`,
      QUALITIES[decision.quality] && ` (${QUALITIES[decision.quality]})`,
      `; load figures ${decision.load_age_seconds > 0 ? `${duration(decision.load_age_seconds)} old` : "current"}.`));
}

// --- everything else ---------------------------------------------------------------------------

function facts(trace) {
  const list = (query, text) => h("a", { href: `#/requests?${new URLSearchParams(query)}` }, text);
  const engine = Object.entries(trace.engine ?? {}).map(([name, value]) =>
    [`engine: ${name.replaceAll("_", " ")}`, /seconds|latency|_time$/.test(name) ? duration(value) : typeof value === "number" ? number(value) : value]);
  const all = [
    ["Arrived", trace.timestamp], ["Ended", trace.completion_time],
    ["Worker", trace.worker_url === "none:0" ? undefined : trace.worker_url],
    ["Prefill worker", trace.prefill_worker_url],
    ["Ahead of it there", count(trace.queue_size)],
    ["Model", trace.model], ["An alias of", trace.served_model], ["Streamed", trace.stream === undefined ? undefined : trace.stream ? "yes" : "no"],
    ["Input tokens", trace.input_tokens && count(trace.input_tokens)],
    ["Output tokens", trace.output_tokens && count(trace.output_tokens)],
    ["Cached tokens", trace.cached_tokens === undefined ? undefined : count(trace.cached_tokens)],
    ["Predicted cached", trace.predicted_cached_tokens === undefined ? undefined : count(trace.predicted_cached_tokens)],
    ...engine,
    ["Router", trace.router_id && list({ router_id: trace.router_id }, trace.router_id)],
    ["Session", trace.session_id && list({ session_id: trace.session_id }, trace.session_id)],
    ["Label", trace.label && list({ label: trace.label }, trace.label)],
    ["Engine's id", trace.engine_request_id], ["W3C trace id", trace.trace_id], ["Key", trace.key],
  ].filter(([, value]) => value !== undefined && value !== "" && value !== null);
  return h("section", { class: "card", "aria-labelledby": "facts-title" },
    h("h2", { id: "facts-title" }, "Facts"),
    h("dl", { class: "facts" }, all.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))));
}

function raw(trace) {
  const text = JSON.stringify(trace, null, 2);
  return h("details", { class: "raw card" }, h("summary", {}, "JSON"),
    h("button", { type: "button", class: "quiet copy", onclick: (event) => copy(event.currentTarget, text) }, "Copy"),
    h("pre", { tabindex: "0" }, text));
}
