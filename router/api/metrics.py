"""GET /metrics."""

from __future__ import annotations

from aiohttp import web

from router.api.routing import Route
from router.metrics import Exposition, Metrics


class MetricsApi:
    """Serves what `Metrics` counted, on the serving port or on one of its own."""

    def __init__(self, metrics: Metrics) -> None:
        self._exposition = Exposition(metrics)

    def routes(self) -> list[Route]:
        return [Route("GET", "/metrics", self.scrape, "open")]

    async def scrape(self, request: web.BaseRequest, params: dict[str, str]) -> web.Response:
        body, content_type = self._exposition.render(request.headers.get("Accept"))
        return web.Response(body=body, headers={"Content-Type": content_type})
