// Where the time of one request went: pure arithmetic on its trace.

/** Lanes of a waterfall, in seconds after the arrival, and shares that sum to `total`.
 *
 * A lane is `{label, note, parts: [{from, to, kind, text}]}`; kinds are "line", "prefill" (by a worker of
 * its own), "first" (until the first token), "answer", "failed". A prefill counts only as long as its decode
 * has not begun: mostly both run side by side. What no lane accounts for is the router's own work and its pauses between
 * attempts. `open` says that the request has not ended; `nowMs` is then its end for now. */
export function story(trace, nowMs) {
  const start = Date.parse(trace.timestamp);
  const open = trace.duration_seconds === undefined;
  const total = Math.max(open ? (nowMs - start) / 1000 : trace.duration_seconds, 0);
  const within = (value, low = 0) => Math.min(Math.max(value, low), total);
  const lanes = [];
  const attempts = trace.attempts ?? [];

  const waited = trace.queue_seconds ?? (attempts.length === 0 ? total : 0);
  const inLine = within(waited);
  lanes.push({ label: "In line", note: "", parts: [{ from: 0, to: inLine, kind: "line", text: "waiting for admission" }] });

  let before = inLine;
  let prefilling = null; // when the prefill of the pair began
  let alone = 0;
  attempts.forEach((attempt, i) => {
    const from = within((Date.parse(attempt.started_at) - start) / 1000, before);
    if (attempt.leg === "prefill") prefilling = from;
    else if (prefilling !== null) {
      alone += from - prefilling;
      prefilling = null;
    }
    const to = attempt.duration_seconds === undefined ? total : within(from + attempt.duration_seconds, from);
    const last = i === attempts.length - 1;
    const first = last && trace.ttft_seconds !== undefined ? within(trace.ttft_seconds, from) : null;
    const parts = [];
    if (attempt.leg === "prefill") {
      parts.push({ from, to, kind: attempt.error ? "failed" : "prefill", text: attempt.error ? attempt.error.type : "prefill", beside: true });
    } else if (attempt.error !== undefined && !(last && first !== null)) {
      parts.push({ from, to, kind: "failed", text: attempt.error.type });
    } else if (first !== null && first < to) {
      parts.push({ from, to: first, kind: "first", text: "until the first token" });
      parts.push({ from: first, to, kind: attempt.error ? "failed" : "answer", text: attempt.error ? attempt.error.type : "generating" });
    } else {
      const waiting = open && last && trace.status === "routed";
      parts.push({ from, to, kind: waiting ? "first" : "answer", text: waiting ? "waiting for the worker" : "at the worker" });
    }
    const said = attempt.error ? attempt.error.type : attempt.http_status;
    const note = [attempt.leg, said].filter((word) => word !== undefined).join(" ");
    lanes.push({ label: attempt.node_id, note, attempt, parts });
    if (attempt.leg !== "prefill") before = to;
  });

  const sum = (kind) =>
    lanes.flatMap((lane) => lane.parts).filter((part) => part.kind === kind && !part.beside).reduce((all, part) => all + part.to - part.from, 0);
  const shares = [
    { kind: "line", text: "in line", seconds: sum("line") },
    { kind: "failed", text: "failed attempts", seconds: sum("failed") },
    { kind: "prefill", text: "prefill, before decode began", seconds: alone },
    { kind: "first", text: "to the first token", seconds: sum("first") },
    { kind: "answer", text: trace.ttft_seconds === undefined ? "at the worker" : "generating", seconds: sum("answer") },
  ];
  const rest = total - shares.reduce((all, share) => all + share.seconds, 0);
  shares.push({ kind: "rest", text: "router and pauses", seconds: Math.max(0, rest) });
  return { total, open, lanes, shares: shares.filter((share) => share.seconds > 0) };
}

/** About `wanted` round places on an axis from 0 to `total`. */
export function ticks(total, wanted = 5) {
  if (!(total > 0)) return [0];
  const rough = total / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const places = [];
  for (let i = 0; i * step <= total * 1.0001; i++) places.push(i * step);
  return places;
}
