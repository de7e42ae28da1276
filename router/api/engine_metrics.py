"""Metrics of several workers as one page. Pure.

Prometheus takes each metric's lines together or not at all, and names with `:` are for its own
rules; so the pages of the workers are taken apart by metric, each sample is given its worker as a
label, and `:` becomes `_` (sglang-router does the same).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

SAMPLE = re.compile(r"([A-Za-z_:][\w:]*)(?:\{(.*)\})?[ \t]+(\S.*)")
ABOUT = re.compile(r"# (HELP|TYPE) ([A-Za-z_:][\w:]*)(?: (.*))?")
SUFFIXES = ("", "_bucket", "_sum", "_count", "_total", "_created")


def merge(pages: Iterable[tuple[str, str]]) -> str:
    """One page of (worker, its page in Prometheus' text format); what is not understood is left
    out. The worker is in the label `worker_addr`."""
    about: dict[str, dict[str, str]] = {}
    samples: dict[str, list[str]] = {}
    for worker, page in pages:
        mark = 'worker_addr="%s"' % worker.replace("\\", r"\\").replace('"', r"\"")
        family = ""
        for line in page.splitlines():
            if (said := ABOUT.fullmatch(line)) is not None:
                family = legal(said[2])
                about.setdefault(family, {}).setdefault(said[1], said[3] or "")
                samples.setdefault(family, [])
            elif (sample := SAMPLE.fullmatch(line)) is not None:
                name = legal(sample[1])
                if not belongs(name, family):
                    family = name
                labels = f"{mark},{sample[2]}" if sample[2] else mark
                samples.setdefault(family, []).append(f"{name}{{{labels}}} {sample[3]}")
    return "".join(f"{line}\n" for line in _written(about, samples))


def _written(about: dict[str, dict[str, str]], samples: dict[str, list[str]]) -> Iterator[str]:
    for family, lines in samples.items():
        for word in ("HELP", "TYPE"):
            if word in about.get(family, {}):
                yield f"# {word} {family} {about[family][word]}".rstrip()
        yield from lines


def legal(name: str) -> str:
    return name.replace(":", "_")


def belongs(name: str, family: str) -> bool:
    """Is `name` the family's own, or one of a histogram's or counter's parts?"""
    return name.startswith(family) and name[len(family) :] in SUFFIXES
