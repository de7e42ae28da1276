"""GET /ui: the files of the page, with what a browser must know of them."""

from __future__ import annotations

import pytest

from router.api.ui import FOLDER
from tests.running import call, running

NAMES = sorted(path.name for path in FOLDER.iterdir() if path.is_file())
TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


async def test_the_empty_page_is_open_where_everything_else_needs_the_key() -> None:
    async with running(api_key="secret") as app:
        page = await call(app, "GET", "/ui")
        assert page.status == 200
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "<title>Trace router</title>" in page.text
        assert (await call(app, "GET", "/v1/traces")).status == 401
        assert (await call(app, "GET", "/workers")).status == 401


@pytest.mark.parametrize("name", NAMES)
async def test_every_file_is_served_under_its_type_and_may_load_nothing_from_elsewhere(
    name: str,
) -> None:
    async with running() as app:
        file = await call(app, "GET", f"/ui/{name}")
    assert file.status == 200
    assert file.body == (FOLDER / name).read_bytes()
    assert file.headers["Content-Type"] == TYPES[name.rpartition(".")[2]]
    assert file.headers["X-Content-Type-Options"] == "nosniff"
    policy = file.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy


async def test_a_file_that_a_browser_has_is_not_sent_again_until_it_changes() -> None:
    async with running() as app:
        first = await call(app, "GET", "/ui/app.js")
        assert first.headers["Cache-Control"] == "no-cache"
        known = {"If-None-Match": first.headers["ETag"]}
        again = await call(app, "GET", "/ui/app.js", headers=known)
        assert (again.status, again.body) == (304, b"")
        assert again.headers["ETag"] == first.headers["ETag"]
        other = await call(app, "GET", "/ui/api.js", headers=known)
        assert other.status == 200


async def test_the_page_with_a_slash_behind_it_leads_to_the_page() -> None:
    async with running() as app:
        page = await call(app, "GET", "/ui/")
    assert page.status == 200
    assert "<title>Trace router</title>" in page.text


@pytest.mark.parametrize("name", ["nothing.js", "__init__.py", "..%2fapp.py", "%2e%2e"])
async def test_what_is_no_file_of_the_page_is_not_there(name: str) -> None:
    async with running() as app:
        answer = await call(app, "GET", f"/ui/{name}")
    assert answer.status in (400, 404)
    assert b"import" not in answer.body
