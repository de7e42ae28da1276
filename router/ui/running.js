// Time that passes on screen, for what has not ended yet; and how a status looks.

import { now } from "./api.js";
import { h } from "./dom.js";
import { duration } from "./format.js";

export const TERMINAL = new Set(["completed", "failed", "cancelled", "rejected", "lost"]);
export const STATUSES = ["queued", "routed", "processing", ...TERMINAL];

/** Seconds since an RFC 3339 time. */
export const since = (timestamp) => Math.max(0, (now() - Date.parse(timestamp)) / 1000);

export const stopwatch = (timestamp) =>
  h("span", { class: "running", "data-since": timestamp }, duration(since(timestamp)));

export function tick() {
  for (const span of document.querySelectorAll("[data-since]")) {
    span.textContent = duration(since(span.dataset.since));
  }
}

export const badge = (status) =>
  h("span", { class: `status ${STATUSES.includes(status) ? status : ""}` }, status);

export const tookText = (trace) =>
  trace.duration_seconds === undefined && !TERMINAL.has(trace.status)
    ? stopwatch(trace.timestamp)
    : duration(trace.duration_seconds);

/** The address of a trace here: by its own key, which no other record has. */
export const traceHash = (trace) => `#/trace/${encodeURIComponent(trace.key || trace.request_id)}`;
