"""docs/metrics.md says exactly what /metrics shows."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from router.metrics import Exposition, IndexState, Metrics, SharedState, Sources, SourceState
from router.metrics.families import FAMILIES
from tracking.view import StoreState

DOCS = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
OURS = ("smg_", "trace_router_")


def table(section: str) -> list[list[str]]:
    """The cells of each row of the table in a section, without the table's head."""
    body = DOCS.split(f"\n## {section}\n")[1].split("\n## ")[0]
    rows = [line for line in body.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows[2:]]


def documented() -> dict[str, tuple[str, set[str], str]]:
    rows = [*table("Kept from sglang-router"), *table("New")]
    found = {}
    for name, kind, labels, meaning in rows:
        assert name not in found
        found[name.strip("`")] = (kind, set(re.findall(r"`(\w+)`", labels)), meaning)
    return found


def test_every_metric_is_documented_with_its_type_labels_and_meaning() -> None:
    assert documented() == {f.name: (f.kind, set(f.labels), f.help) for f in FAMILIES}


def test_a_scrape_shows_the_documented_metrics_and_no_others() -> None:
    store = StoreState(kind="embedded", state="up", buffered=0, buffered_bytes=0, dropped=0)
    metrics = Metrics(
        Sources(
            workers=list,
            open_requests=lambda: 0,
            queued_requests=lambda: 0,
            store=lambda: store,
            shared=lambda: SharedState(replicas=1, load_age_seconds=0.0, untold=0),
            index=lambda: IndexState(0, 0),
            spans=lambda: {"exported": 0},
            discovery=lambda: [SourceState("dns:workers", 0, 0.0, 0)],
        ),
        version="1",
    )
    text = Exposition(metrics).render(None)[0].decode()
    shown = {
        f"{family.name}_total" if family.type == "counter" else family.name: family.type
        for family in text_string_to_metric_families(text)
        if family.name.startswith(OURS)
    }
    assert shown == {name: kind for name, (kind, _, _) in documented().items()}


def test_no_metric_that_is_shown_is_listed_as_left_out() -> None:
    left_out = {name for row in table("Left out") for name in re.findall(r"`([\w*]+)`", row[0])}
    assert "smg_router_ttft_seconds" in left_out
    assert not left_out & documented().keys()


def test_every_metric_the_docs_mention_exists() -> None:
    left_out = DOCS.split("\n## Left out\n")[1]
    named_instead = {
        name
        for row in table("Left out")
        for name in re.findall(r"`((?:smg|trace_router)_\w+)`", row[1])
    }
    assert named_instead
    assert named_instead <= documented().keys()
    in_text = set(re.findall(r"\b(?:smg|trace_router)_\w+", DOCS.removesuffix(left_out)))
    known = documented().keys()
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in in_text} <= known
