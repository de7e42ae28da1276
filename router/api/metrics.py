"""GET /metrics."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from router.api.about import TEXT, About
from router.api.routing import Route
from router.metrics import Exposition, Metrics, Siblings

ABOUT: Final = About(summary="Metrics for Prometheus", answers={200: TEXT})


class MetricsApi:
    """Serves what `Metrics` counted, on the serving port or on one of its own."""

    def __init__(self, metrics: Metrics) -> None:
        self.exposition = Exposition(metrics)
        self.siblings: Siblings | None = None
        """All processes of this router, where it has more than one."""

    def routes(self) -> list[Route]:
        return [Route("GET", "/metrics", self.scrape, "open", ABOUT)]

    async def scrape(self, request: web.BaseRequest, params: dict[str, str]) -> web.Response:
        families = None if self.siblings is None else await self.siblings.families()
        accept = request.headers.get("Accept")
        body, content_type = self.exposition.render(accept, families)
        return web.Response(body=body, headers={"Content-Type": content_type})
