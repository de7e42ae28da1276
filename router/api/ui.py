"""The page at `/ui`: files that a browser needs, the same for everybody.

They hold no data. The page asks the public endpoints for what it shows, with the key of whoever looks
at it, so it may be given to anyone. Nothing is fetched from elsewhere, and the policy sent with each
file makes the browser see to that.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec
from aiohttp import web

from router.api.about import About, Plain
from router.api.routing import Route
from router.errors import NotFound

FOLDER: Final = Path(__file__).parents[1] / "ui"
PAGE: Final = "index.html"
TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS: Final = {
    # Asked for again each time, answered with 304: a page never outlives its router's version.
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


PAGE_ABOUT: Final = About(summary="The page", answers={200: Plain("text/html"), 304: None})
REDIRECT_ABOUT: Final = About(summary="Leads to the page", answers={308: None})
FILE_ABOUT: Final = About(
    summary="A file of the page", answers={200: Plain("*/*"), 304: None}, errors=(NotFound,)
)


class File(msgspec.Struct, frozen=True):
    """A file as it is served."""

    body: bytes
    content_type: str
    etag: str


class UiApi:
    """Reads the files once, when it is made."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._files = {path.name: read(path) for path in folder.iterdir() if path.suffix in TYPES}

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/ui", self.page, "open", PAGE_ABOUT),
            Route("GET", "/ui/", self.redirect, "open", REDIRECT_ABOUT),
            Route("GET", "/ui/{file}", self.file, "open", FILE_ABOUT),
        ]

    async def page(self, request: web.BaseRequest, params: dict[str, str]) -> web.Response:
        return self._answer(request, PAGE)

    async def redirect(self, request: web.BaseRequest, params: dict[str, str]) -> web.Response:
        """The page's links are relative, so that it also works below a prefix of a proxy."""
        return web.Response(status=308, headers={"Location": "../ui"})

    async def file(self, request: web.BaseRequest, params: dict[str, str]) -> web.Response:
        return self._answer(request, params["file"])

    def _answer(self, request: web.BaseRequest, name: str) -> web.Response:
        file = self._files.get(name)
        if file is None:
            raise NotFound(f"no such file of the page: {name[:100]!a}")
        headers = {**HEADERS, "ETag": file.etag}
        if request.headers.get("If-None-Match") == file.etag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=file.body, headers={**headers, "Content-Type": file.content_type})


def read(path: Path) -> File:
    body = path.read_bytes()
    return File(body, TYPES[path.suffix], f'"{sha256(body).hexdigest()[:16]}"')
