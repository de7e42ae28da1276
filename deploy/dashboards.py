"""The Grafana dashboards, written down once: `python -m deploy.dashboards` makes the JSON files.

A panel is a title, a unit and its queries; the rest is the same for all. Counts are summed over
replicas; facts of the whole fleet (docs/metrics.md) are read with `max`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

FOLDER: Final = Path(__file__).parent / "grafana" / "dashboards"
SOURCE: Final = {"type": "prometheus", "uid": "${source}"}
COLUMNS: Final = 3
WIDTH: Final = 24 // COLUMNS
HEIGHT: Final = 8
NODE: Final = 'node_id=~"$node"'

Query = tuple[str, str]  # PromQL, legend


class Panel(msgspec.Struct):
    """`kind` "stat" shows the last value, "timeseries" all of them, "stacked" their sum as well."""

    title: str
    unit: str
    queries: list[Query]
    help: str = ""
    kind: str = "timeseries"


class Dashboard(msgspec.Struct):
    """`variables` are (name, query) of lists that the user picks from."""

    uid: str
    title: str
    panels: list[Panel]
    variables: list[tuple[str, str]] = []


def braced(where: str) -> str:
    return f"{{{where}}}" if where else ""


def quantiles(metric: str, where: str = "", by: str = "") -> list[Query]:
    """The median, the 90th and the 99th percentile of a histogram."""
    labels = ", ".join(filter(None, ["le", by]))
    legend = f" {{{{{by}}}}}" if by else ""
    return [
        (
            f"histogram_quantile({q}, sum by ({labels})"
            f" (rate({metric}_bucket{braced(where)}[$__rate_interval])))",
            f"p{round(float(q) * 100)}{legend}",
        )
        for q in ("0.5", "0.9", "0.99")
    ]


def rate(metric: str, by: str = "", where: str = "") -> Query:
    """The sum of the rates of a counter, over replicas."""
    group = f"sum by ({by})" if by else "sum"
    legend = " ".join(f"{{{{{name.strip()}}}}}" for name in by.split(",")) if by else "all"
    return f"{group} (rate({metric}{braced(where)}[$__rate_interval]))", legend


def ratio(part: str, whole: str, by: str, where: str = "") -> Query:
    over, _ = rate(part, by, where)
    under, legend = rate(whole, by, where)
    return f"{over} / ({under} > 0)", legend


HEALTHY: Final = "sum(max by (worker) (smg_worker_health))"
CACHED: Final = "trace_router_cached_tokens_total"
KNOWN: Final = "trace_router_cache_known_input_tokens_total"

FLEET = Dashboard(
    "trace-router-fleet",
    "Trace router: fleet",
    [
        Panel("Workers healthy", "short", [(HEALTHY, "healthy")], "For any router.", "stat"),
        Panel("Routers alive", "short", [("max(trace_router_replicas)", "alive")], kind="stat"),
        Panel(
            "Requests in flight", "short", [("sum(smg_http_connections_active)", "all")], kind="stat"
        ),
        Panel(
            "Requests by outcome",
            "reqps",
            [rate("trace_router_requests_total", "status")],
            kind="stacked",
        ),
        Panel(
            "Why requests did not end well",
            "reqps",
            [rate("trace_router_requests_total", "error_type", 'status!="completed"')],
            "error.type of the traces.",
            "stacked",
        ),
        Panel("Time to first token", "s", quantiles("trace_router_ttft_seconds")),
        Panel("Duration", "s", quantiles("trace_router_request_duration_seconds")),
        Panel("Between tokens", "s", quantiles("trace_router_inter_token_seconds")),
        Panel("Waiting for admission", "s", quantiles("trace_router_queue_seconds")),
        Panel(
            "Prefix cache hit rate by worker",
            "percentunit",
            [ratio(CACHED, KNOWN, "node_id")],
            "Of requests whose worker tells (--enable-cache-report).",
        ),
        Panel("Requests in flight by worker", "short", [
            ("sum by (worker) (smg_worker_requests_active)", "{{worker}}"),
        ], kind="stacked"),
        Panel("Time to first token by worker, p99", "s", [quantiles(
            "trace_router_ttft_seconds", by="node_id")[2]]),
        Panel("Tokens", "short", [
            (rate("trace_router_input_tokens_total")[0], "input per second"),
            (rate("trace_router_output_tokens_total")[0], "output per second"),
        ]),
        Panel("Choices by reason", "reqps", [rate("trace_router_policy_decisions_total", "reason")],
              "docs/policies.md says what they mean.", "stacked"),
        Panel("Choices by worker", "reqps", [rate("trace_router_policy_decisions_total", "node_id")],
              kind="stacked"),
    ],
)  # fmt: skip

WORKER = Dashboard(
    "trace-router-worker",
    "Trace router: one worker",
    [
        Panel(
            "Healthy",
            "short",
            [
                (
                    f"max by (node_id) (smg_worker_health * on (worker, instance) group_left (node_id)"
                    f" trace_router_worker_info{{{NODE}}})",
                    "{{node_id}}",
                )
            ],
            "1: some router can reach it.",
            "stat",
        ),
        Panel(
            "Requests in flight",
            "short",
            [
                (
                    f"sum by (node_id) (smg_worker_requests_active * on (worker, instance)"
                    f" group_left (node_id) trace_router_worker_info{{{NODE}}})",
                    "{{node_id}}",
                )
            ],
            kind="stat",
        ),
        Panel(
            "Circuit breaker",
            "short",
            [
                (
                    f"max by (node_id) (smg_worker_cb_state * on (worker, instance)"
                    f" group_left (node_id) trace_router_worker_info{{{NODE}}})",
                    "{{node_id}}",
                )
            ],
            "0 closed, 1 open, 2 half open; the worst of all routers.",
            "stat",
        ),
        Panel("Attempts by answer", "reqps",
              [rate("trace_router_attempts_total", "status_code, error_type", NODE)], kind="stacked"),
        Panel("Time to first token", "s", quantiles("trace_router_ttft_seconds", NODE)),
        Panel("Between tokens", "s", quantiles("trace_router_inter_token_seconds", NODE)),
        Panel("Duration of attempts", "s", quantiles("trace_router_attempt_duration_seconds", NODE)),
        Panel("Prefix cache hit rate", "percentunit", [ratio(CACHED, KNOWN, "node_id", NODE)]),
        Panel("Tokens per second", "short", [
            (rate("trace_router_input_tokens_total", "", NODE)[0], "input"),
            (rate("trace_router_cached_tokens_total", "", NODE)[0], "of it cached"),
            (rate("trace_router_output_tokens_total", "", NODE)[0], "output"),
        ]),
        Panel("Why it was chosen", "reqps",
              [rate("trace_router_policy_decisions_total", "reason", NODE)], kind="stacked"),
    ],
    [("node", "label_values(trace_router_worker_info, node_id)")],
)  # fmt: skip

TRACES = Dashboard(
    "trace-router-traces",
    "Trace router: traces and store",
    [
        Panel("Store", "short", [("min(trace_router_store_up)", "up")],
              "1: every router reaches it.", "stat"),
        Panel("Memory of the store", "percentunit", [(
            "max(trace_router_store_memory_bytes) / (max(trace_router_store_memory_limit_bytes) > 0)",
            "used")], "Of maxmemory; empty where there is no limit.", "stat"),
        Panel("Traces dropped", "short", [("sum(trace_router_writer_dropped_records_total)", "all")],
              "Since the routers started.", "stat"),
        Panel("Memory of the store", "bytes", [
            ("max(trace_router_store_memory_bytes)", "used"),
            ("max(trace_router_store_memory_limit_bytes)", "limit"),
        ]),
        Panel("Records committed", "cps",
              [rate("trace_router_writer_flushed_records_total", "instance")], kind="stacked"),
        Panel("Time of a commit", "s", quantiles("trace_router_writer_flush_seconds")),
        Panel("Records not yet committed", "short",
              [("sum by (instance) (trace_router_writer_buffered_records)", "{{instance}}")]),
        Panel("Bytes not yet committed", "bytes",
              [("sum by (instance) (trace_router_writer_buffered_bytes)", "{{instance}}")]),
        Panel("Commits refused", "cps",
              [rate("trace_router_writer_failed_flushes_total", "instance")]),
        Panel("Requests lost with a router", "short",
              [("sum(increase(trace_router_lost_requests_total[$__rate_interval]))", "lost")]),
        Panel("Routers alive", "short", [("max(trace_router_replicas)", "alive")]),
    ],
)  # fmt: skip

ROUTER = Dashboard(
    "trace-router-router",
    "Trace router: inside the routers",
    [
        Panel("Version", "short", [("count by (version) (trace_router_build_info)", "{{version}}")],
              kind="stat"),
        Panel("Requests in flight", "short",
              [("sum by (instance) (smg_http_connections_active)", "{{instance}}")], kind="stacked"),
        Panel("Requests waiting for admission", "short",
              [("sum by (instance) (trace_router_queue_depth)", "{{instance}}")], kind="stacked"),
        Panel("The router's own time", "s", quantiles("trace_router_overhead_seconds"),
              "Before a request is sent to a worker, waiting not included."),
        Panel("CPU", "percentunit", [(
            'sum by (instance) (rate(process_cpu_seconds_total{job="router"}[$__rate_interval]))',
            "{{instance}}")], "1 is one core."),
        Panel("Memory", "bytes",
              [('sum by (instance) (process_resident_memory_bytes{job="router"})', "{{instance}}")]),
        Panel("Open files", "short",
              [('sum by (instance) (process_open_fds{job="router"})', "{{instance}}")]),
        Panel("HTTP answers", "reqps", [rate("smg_http_responses_total", "status_code")],
              kind="stacked"),
        Panel("HTTP by path", "reqps", [rate("smg_http_requests_total", "path")], kind="stacked"),
        Panel("Admission", "reqps", [rate("smg_http_rate_limit_total", "result")], kind="stacked"),
        Panel("Attempts beyond the first", "reqps", [(
            "sum(rate(trace_router_attempts_total[$__rate_interval]))"
            " - sum(rate(smg_router_requests_total[$__rate_interval]))", "retries")]),
        Panel("Aborts sent to workers", "reqps", [rate("trace_router_aborts_total", "result")]),
        Panel("Breaker changes", "short", [(
            "sum by (worker, to) (increase(smg_worker_cb_transitions_total[$__rate_interval]))",
            "{{worker}} {{to}}")]),
    ],
)  # fmt: skip

DASHBOARDS: Final = {"fleet": FLEET, "worker": WORKER, "traces": TRACES, "router": ROUTER}


def panel_json(number: int, panel: Panel) -> dict[str, object]:
    custom = {"fillOpacity": 20, "showPoints": "never", "lineWidth": 1}
    if panel.kind == "stacked":
        custom["stacking"] = {"mode": "normal"}
    return {
        "id": number + 1,
        "title": panel.title,
        "description": panel.help,
        "type": "stat" if panel.kind == "stat" else "timeseries",
        "datasource": SOURCE,
        "gridPos": {
            "x": number % COLUMNS * WIDTH,
            "y": number // COLUMNS * HEIGHT,
            "w": WIDTH,
            "h": HEIGHT,
        },
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0}
            | ({} if panel.kind == "stat" else {"custom": custom}),
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}}
        if panel.kind != "stat"
        else {"reduceOptions": {"calcs": ["lastNotNull"]}},
        "targets": [
            {"refId": chr(ord("A") + i), "datasource": SOURCE, "expr": expr, "legendFormat": legend}
            for i, (expr, legend) in enumerate(panel.queries)
        ],
    }


def dashboard_json(dashboard: Dashboard) -> dict[str, object]:
    variables: list[dict[str, object]] = [
        {"name": "source", "label": "Source", "type": "datasource", "query": "prometheus"}
    ]
    variables += [
        {
            "name": name,
            "label": name.capitalize(),
            "type": "query",
            "datasource": SOURCE,
            "query": {"query": query, "refId": name},
            "refresh": 2,
            "multi": True,
            "includeAll": True,
            "current": {"text": "All", "value": "$__all"},
        }
        for name, query in dashboard.variables
    ]
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["trace-router"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "links": [
            {
                "type": "dashboards",
                "tags": ["trace-router"],
                "title": "Trace router",
                "asDropdown": True,
                "keepTime": True,
            }
        ],
        "templating": {"list": variables},
        "panels": [panel_json(number, panel) for number, panel in enumerate(dashboard.panels)],
    }


def files() -> dict[str, bytes]:
    """The dashboards by the name of their file."""
    return {
        f"{name}.json": msgspec.json.format(msgspec.json.encode(dashboard_json(one)), indent=1)
        + b"\n"
        for name, one in DASHBOARDS.items()
    }


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, content in files().items():
        (FOLDER / name).write_bytes(content)


if __name__ == "__main__":
    main()
