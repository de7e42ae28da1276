"""The page at /ui, as someone with a browser, a mouse, a keyboard and perhaps a telephone meets it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import quote

import msgspec
import pytest
import pytest_asyncio

from tests.browser import Page, browser
from tests.fleets import Fleet, body, chat_body, fleet, post
from tests.processes import Json, Processes, RouterProcess
from tests.raw_tcp import RawConnection
from tests.waiting import PATIENCE_SECONDS

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
]
FLEET = {
    "workers": 2,
    "replicas": 2,
    "redis": True,
    "switches": ["--enable-cache-report", "--block-tokens=4"],
    "flags": [
        "--retry-initial-backoff-ms=1",
        *("--health-check-interval-secs=1", "--health-failure-threshold=1"),
    ],
}
HOSTILE = "<img src=x onerror=document.title='owned'>"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tab(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Page]:
    directory = tmp_path_factory.mktemp("browser")
    async with Processes(directory) as processes, browser(processes, directory) as page:
        yield page


@pytest_asyncio.fixture(loop_scope="module")
async def page(tab: Page, shared: Fleet) -> AsyncIterator[Page]:
    """The page of the second router, new; nothing on it may have gone wrong."""
    await tab.window(1280, 900)
    await tab.tell("Page.navigate", url="about:blank")
    tab.requested.clear()
    await tab.open(f"{shared.routers[1].url}/ui")
    yield tab
    assert tab.complaints == []


async def ids(page: Page) -> list[str]:
    return await page.texts("table.requests td.id")


async def test_requests_appear_by_themselves_whichever_router_took_them(
    shared: Fleet, page: Page
) -> None:
    await page.shows("live")
    for number, router in enumerate(shared.routers):
        await post(router, "/generate", body(), request_id=f"appears-{number}")
        await page.shows(f"appears-{number}")
    assert (await ids(page))[:2] == ["appears-1", "appears-0"]


async def test_a_running_request_is_seen_to_run_and_to_end(shared: Fleet, page: Page) -> None:
    await shared.faults({"kind": "hang_after", "seconds": 30})
    client = await RawConnection.connect(shared.router.port)
    await client.post("/generate", body(stream=True), "X-Request-Id: runs\r\n")
    await client.read_until(b"\n\n")
    await page.click("text=runs")
    await page.shows("processing", ".heading")
    await page.shows("Where its time goes")
    client.close()
    await page.shows("cancelled", ".heading")
    await page.shows("client_gone")


async def test_filters_are_in_the_address_and_survive_a_reload(shared: Fleet, page: Page) -> None:
    await post(shared.router, "/generate", body(), request_id="good-one")
    await post(shared.router, "/generate", b"no json", request_id="bad-one")
    await page.shows("bad-one")
    await page.click("button.chip.rejected")
    await page.until("!document.body.innerText.includes('good-one')")
    assert "bad-one" in await ids(page)
    assert "status=rejected" in await page.run("location.hash")
    await page.reload()
    await page.shows("bad-one")
    assert "good-one" not in await ids(page)
    await page.click("text=Clear filters")
    await page.shows("good-one")
    node = str((await shared.trace("good-one"))["node_id"])
    await page.choose("select[name=node_id]", node)
    await page.until(f"location.hash.includes('node_id={node}')")
    await page.until(
        f"[...document.querySelectorAll('td.worker')].every((e) => e.innerText === '{node}')"
    )
    assert "good-one" in await ids(page)
    await page.run("history.back()")
    await page.shows("bad-one")


async def test_what_no_request_matches_says_so(page: Page) -> None:
    await page.run("location.hash = '#/requests?label=nobody'")
    await page.shows("No request matches these filters.")
    assert await page.run("document.querySelector('[name=label]').value") == "nobody"


async def test_a_paused_table_stands_still(shared: Fleet, page: Page) -> None:
    await post(shared.router, "/generate", body(), request_id="before-pause")
    await page.shows("before-pause")
    await page.click("text=Pause")
    await page.shows("paused")
    before = await ids(page)
    await post(shared.router, "/generate", body(), request_id="while-paused")
    await shared.ended("while-paused")
    await page.run("new Promise((resolve) => setTimeout(resolve, 1500))")
    assert await ids(page) == before
    await page.click("text=Go on")
    await page.shows("while-paused")


async def test_the_waterfall_shows_every_attempt_and_the_receipt_says_why(
    shared: Fleet, page: Page
) -> None:
    for worker in shared.workers:
        await worker.faults({"kind": "status", "status": 503, "times": 1})
    await post(shared.router, "/generate", body(stream=True), request_id="tried-twice")
    trace = await shared.ended("tried-twice")
    attempts = msgspec.convert(trace["attempts"], list[Json])
    await page.shows("tried-twice")
    await page.click("text=tried-twice")
    await page.shows("Where its time went")
    lanes = await page.texts(".waterfall .lane-name")
    assert lanes[0] == "In line"
    assert [lane.split()[0] for lane in lanes[1:]] == [attempt["node_id"] for attempt in attempts]
    assert len(await page.texts(".waterfall .bar.failed")) == len(attempts) - 1
    # Each bar begins where the one before it ended, or later, and none leaves the track.
    places = await page.run(
        "[...document.querySelectorAll('.bar')].map((e) => [parseFloat(e.style.left),"
        " parseFloat(e.style.width)])"
    )
    assert all(left >= 0 and left + width <= 100.001 for left, width in places)
    assert all(a[0] + a[1] <= b[0] + 0.001 for a, b in zip(places, places[1:], strict=False))
    decision = msgspec.convert(trace["decision"], Json)
    receipt = await page.text(".card:has(table.receipt)")
    assert f"cache_aware said {decision['reason']}." in receipt
    candidates = msgspec.convert(decision["candidates"], list[Json])
    shown = await page.texts("table.receipt tbody th")
    assert all(str(c["node_id"]) in text for c, text in zip(candidates, shown, strict=True))
    assert [text.startswith("chosen") for text in shown] == [
        candidate.get("chosen", False) for candidate in candidates
    ]


async def test_a_trace_is_found_by_its_id_and_its_address_can_be_passed_on(
    shared: Fleet, page: Page
) -> None:
    await post(shared.router, "/generate", body(), request_id="wanted")
    await page.press("/")
    await page.type("wanted")
    await page.press("Enter")
    await page.shows("wanted", "h1")
    assert await page.run("document.title") == "wanted · Trace router"
    address = await page.run("location.href")
    await page.tell("Page.navigate", url="about:blank")
    await page.open(address)
    await page.shows("wanted", "h1")
    await page.run("location.hash = '#/trace/nobody-knows'")
    await page.shows("No such trace")
    await page.shows("nobody-knows")


async def test_everything_can_be_done_with_the_keyboard(shared: Fleet, page: Page) -> None:
    for number in range(3):
        await post(shared.router, "/generate", body(), request_id=f"key-{number}")
    await page.shows("key-2")
    await page.press("p")
    await page.shows("paused")
    for key in "jjk":
        await page.press(key)
    assert await page.run("document.activeElement.innerText") == (await ids(page))[0]
    await page.press("j")
    chosen = await page.run("document.activeElement.innerText")
    await page.press("Enter")
    await page.shows(chosen, "h1")
    await page.press("Escape")
    await page.until(f"document.activeElement.innerText === '{chosen}'")
    await page.press("f")
    await page.shows("Fleet", "h1")
    await page.press("?")
    await page.shows("Keyboard", "dialog[open]")
    await page.press("Escape")
    await page.press("g")
    await page.until("location.hash === '#/requests'")


async def test_the_fleet_shows_workers_routers_and_store(shared: Fleet, page: Page) -> None:
    text = "the same words for all of them, so that a cache has something to hold"
    for number in range(4):
        content = chat_body(text, stream=True, stream_options={"include_usage": True})
        await post(shared.routers[number % 2], "/v1/chat/completions", content)
    await page.click("text=Fleet")
    await page.shows("worker-0", ".workers")
    await page.until("document.querySelectorAll('.workers .status.completed').length === 2")
    await page.shows("p50", ".chart:nth-of-type(2)")
    rate = await page.text(".chart:nth-of-type(3) figcaption")
    assert "% of the input" in rate
    stats = msgspec.convert(await shared.router.json("/v1/traces/stats"), Json)
    replicas = msgspec.convert(stats["replicas"], list[str])
    assert len(replicas) == 2
    routers = await page.text("[aria-labelledby=replicas-title]")
    assert all(f"{replica}\nalive" in routers for replica in replicas)
    store = await page.text("[aria-labelledby=store-title]")
    assert "redis, up" in store
    assert "2 of 2 workers healthy" in store
    await page.click("text=worker-1")
    await page.until("location.hash.includes('node_id=worker-1')")
    await page.shows("worker-1: ")


async def test_the_fleet_counts_every_request_that_has_ended(shared: Fleet, page: Page) -> None:
    await page.run("location.hash = '#/fleet?window=1h'")
    await post(shared.router, "/generate", body(), request_id="counted")
    await shared.ended("counted", shared.routers[1])
    stats = await shared.routers[1].json("/v1/traces/stats?window=1h")
    told = msgspec.convert(stats, Json)["window"]
    total = msgspec.convert(msgspec.convert(told, Json)["total"], Json)
    await page.shows(f"{total['requests']} requests ended since ")


async def test_a_breaker_that_is_open_is_seen(
    tab: Page, tmp_path_factory: pytest.TempPathFactory
) -> None:
    flags = ["--cb-failure-threshold=1", "--disable-retries"]
    async with (
        Processes(tmp_path_factory.mktemp("breaker")) as processes,
        fleet(processes, workers=1, flags=flags) as broken,
    ):
        await broken.faults({"kind": "status", "status": 500, "paths": ["/generate"]})
        await broken.generate("hello")
        await tab.open(f"{broken.router.url}/ui#/fleet")
        await tab.shows("breaker open", ".workers")
    assert tab.complaints == []


async def test_a_worker_that_fails_is_seen_to_fail(shared: Fleet, page: Page) -> None:
    await page.click("text=Fleet")
    await page.shows("healthy", ".workers")
    await shared.faults({"kind": "status", "status": 500, "paths": ["/health"]})
    await page.shows("unhealthy", ".workers")
    await page.shows("insufficient healthy workers")
    await shared.faults()
    await page.shows("2 of 2 workers healthy")


async def test_what_clients_send_is_text_and_never_part_of_the_page(
    shared: Fleet, page: Page
) -> None:
    request_id = "<b>bold</b>".replace("/", "")
    await post(
        shared.router,
        "/v1/chat/completions",
        chat_body(model=HOSTILE),
        request_id=request_id,
        headers=f"X-Trace-Label: {HOSTILE[:64]}\r\n",
    )
    await page.shows(HOSTILE)
    await page.shows(request_id)
    await page.click(f"text={request_id}")
    await page.shows(request_id, "h1")
    await page.shows(HOSTILE[:64])
    await page.run(f"location.hash = '#/trace/{quote(HOSTILE)}'")
    await page.shows("No such trace")
    assert await page.run("document.querySelectorAll('main img, main b b').length") == 0
    assert await page.run("document.title") != "owned"
    # All that was asked for came from this router: the page works where there is no other host.
    hosts = {url.split("/")[2] for url in page.requested if url.startswith("http")}
    assert hosts == {f"127.0.0.1:{shared.routers[1].port}"}


async def test_what_is_filtered_can_be_exported(
    shared: Fleet, page: Page, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("downloads")
    await page.tell("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    for label in ("wanted", "other"):
        headers = f"X-Trace-Label: {label}\r\n"
        await post(shared.router, "/generate", body(), request_id=f"is-{label}", headers=headers)
    await page.run("location.hash = '#/requests?label=wanted'")
    await page.shows("is-wanted")
    await page.click("text=Export")
    await page.click("text=NDJSON")
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (found := [*folder.glob("traces*.ndjson")]):
            await asyncio.sleep(0.05)
    lines = found[0].read_text().splitlines()
    assert [msgspec.json.decode(line)["request_id"] for line in lines] == ["is-wanted"]


UNNAMED = """
[...document.querySelectorAll("a, button, input, select, summary, svg[role=img]")]
  .filter((e) => e.checkVisibility())
  .filter((e) => !(e.getAttribute("aria-label") || e.innerText?.trim() || e.closest("label")))
  .map((e) => e.outerHTML.slice(0, 200))
"""
# Contrast as WCAG 2 defines it, of every visible piece of text with what is behind it.
FAINT = """
(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, below) => top.slice(0, 3).map((c, i) => c * top[3] + below[i] * (1 - top[3]));
  const behind = (e) => {
    if (e === null) return rgba(getComputedStyle(document.body).backgroundColor).slice(0, 3);
    const own = rgba(getComputedStyle(e).backgroundColor);
    return own[3] === 1 ? own.slice(0, 3) : over(own, behind(e.parentElement));
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !e.checkVisibility()) continue;
    if (e.closest(".unseen, dialog:not([open]), noscript, option, svg")) continue;
    const below = behind(e);
    const [a, b] = [light(over(rgba(getComputedStyle(e).color), below)), light(below)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) found.add(`${ratio.toFixed(2)} ${e.tagName}.${e.className} ${walker.currentNode.data.trim().slice(0, 40)}`);
  }
  return [...found];
})()
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
async def test_every_view_can_be_read_by_everybody(
    shared: Fleet, page: Page, width: int, dark: bool
) -> None:
    await page.window(width, 800, dark=dark)
    await post(shared.router, "/generate", body(stream=True), request_id="read-me-" + "long" * 20)
    await post(shared.router, "/generate", b"no json", request_id="refused")
    views = {"requests": "refused", "trace/refused": "bad_request", "fleet": "Store"}
    views["trace/read-me-" + "long" * 20] = "Why this worker"
    for view, text in views.items():
        await page.run(f"location.hash = '#/{view}'")
        await page.shows(text)
        root = "document.documentElement"
        assert await page.run(f"{root}.scrollWidth <= {root}.clientWidth"), view
        assert await page.run(UNNAMED) == [], view
        assert await page.run(FAINT) == [], view


async def with_key(page: Page, key: str) -> None:
    await page.shows("API key", "dialog[open]")
    await page.click("dialog[open] input")
    await page.type(key)
    await page.press("Enter")


async def test_a_guarded_router_shows_nothing_until_it_is_given_the_key(
    tab: Page, tmp_path_factory: pytest.TempPathFactory
) -> None:
    flags = ["--api-key=user", "--admin-api-key=admin"]
    async with (
        Processes(tmp_path_factory.mktemp("guarded")) as processes,
        fleet(processes, workers=1, flags=flags, key="user") as guarded,
    ):
        await send_with_key(guarded.router, "kept-secret")
        await tab.window(1280, 900)
        await tab.open(f"{guarded.router.url}/ui")
        await with_key(tab, "wrong")
        await tab.shows("did not take this key")
        assert "kept-secret" not in await tab.run("document.documentElement.innerHTML")
        await with_key(tab, "user")
        await tab.shows("kept-secret")
        assert "user" not in await tab.run("JSON.stringify(localStorage) + document.cookie")
        await tab.reload()
        await tab.shows("kept-secret")
        await tab.click("text=Fleet")
        await tab.shows("need the administrator's key")
        await tab.click("text=Enter it")
        await with_key(tab, "admin")
        await tab.shows("healthy", ".workers")
        assert not [url for url in tab.requested if "admin" in url or "wrong" in url]
        await tab.run("sessionStorage.clear()")
    assert tab.complaints == []


async def send_with_key(router: RouterProcess, request_id: str) -> None:
    headers = "Authorization: Bearer user\r\n"
    answer = await post(router, "/generate", body(), request_id=request_id, headers=headers)
    assert answer.status == 200
