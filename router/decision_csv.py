"""The recorder of the research policy: a CSV row for each decision and for each end of a request.

Rows are kept in memory and written by a thread once a second, so that a slow disk holds nobody up;
what does not fit into the bound is dropped and counted. One file for each router and start. What a
policy does not know, or has not said of a worker, is an empty column.
"""

from __future__ import annotations

import asyncio
import csv
import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from time import gmtime, strftime
from typing import Final, TextIO

from router.flags import ConfigError
from router.policies.marginal_utility import server_latency_seconds
from tracking.trace import Decision, Trace, rfc3339

log = logging.getLogger("router.decision_csv")

COLUMNS: Final = (
    *("timestamp", "worker_url", "request_id"),
    *("throughput_gradient", "latency_gradient", "score", "outstanding_requests"),
    *("avg_throughput", "avg_latency", "window_size", "selection_reason"),
    *("actual_output_tokens", "server_latency", "queue_time", "ttft", "decision_time_ms"),
)
# The kinds of row, under the names that the user's scripts select them by.
DECISION: Final = "gradient_based"
COMPLETION: Final = "completion_record"
# The numbers of a receipt in the order of their columns, around `outstanding_requests`.
GRADIENTS: Final = ("throughput_gradient", "latency_gradient", "score")
AVERAGES: Final = ("avg_throughput", "avg_latency", "window_size")

FLUSH_SECONDS: Final = 1.0
MOST_ROWS: Final = 100_000  # that wait to be written

Row = Sequence[str | float | None]


class DecisionCsv:
    """Writes one file in `directory`, which is made. Raises ConfigError where that cannot be done."""

    def __init__(self, directory: str, router_id: str) -> None:
        folder = Path(directory)
        started = strftime("%Y%m%d-%H%M%S", gmtime())
        self.path = folder / f"marginal_utility_{started}_{router_id}.csv"
        self.dropped = 0
        self._rows: list[Row] = []
        self._writing = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file: TextIO = self.path.open("a", newline="", encoding="utf-8")
        except OSError as error:
            reason = f"cannot write in {directory!r}: {error.strerror}"
            raise ConfigError(f"--marginal-utility-output-dir: {reason}") from None
        self._writer = csv.writer(self._file)
        self._writer.writerow(COLUMNS)
        self._file.flush()

    def decided(self, request_id: str, decision: Decision, unix_us: int) -> None:
        """A worker was chosen. The time in microseconds since the epoch."""
        chosen = decision.candidates[0]
        number = chosen.numbers.get
        self._add(
            (
                *(rfc3339(unix_us), chosen.worker_url, request_id),
                *(number(name) for name in GRADIENTS),
                number("in_flight"),
                *(number(name) for name in AVERAGES),
                DECISION,
                *(None, None, None, None),
                round(decision.decision_seconds * 1000, 3),
            )
        )

    def ended(self, trace: Trace, unix_us: int) -> None:
        """A request has ended, however it did."""
        engine = trace.engine
        queued = None if engine is None else engine.queue_time
        self._add(
            (
                *(rfc3339(unix_us), trace.worker_url, trace.request_id),
                *(None, None, None, None, None, None, None),
                COMPLETION,
                trace.output_tokens,
                server_latency_seconds(trace),
                trace.queue_seconds if queued is None else queued,
                trace.ttft_seconds,
                None,
            )
        )

    def _add(self, row: Row) -> None:
        if len(self._rows) < MOST_ROWS:
            self._rows.append(row)
        else:
            self.dropped += 1

    async def run(self) -> None:
        """Write what has come, for ever."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Write what has come."""
        rows, self._rows = self._rows, []
        if rows:
            try:
                await asyncio.to_thread(self._write, rows)
            except OSError as error:
                self.dropped += len(rows)
                log.warning("%s: %d rows are lost: %s", self.path, len(rows), error.strerror)

    def _write(self, rows: Sequence[Row]) -> None:
        with self._writing:  # a cancelled flush leaves its thread behind
            self._writer.writerows(rows)
            self._file.flush()

    async def close(self) -> None:
        """Write the rest. Call it when nothing is added any more and `run` has ended."""
        await self.flush()
        await asyncio.to_thread(self._file.close)
        if self.dropped:
            log.warning("%s: %d rows were dropped", self.path, self.dropped)
