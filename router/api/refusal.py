"""The answer to a request that no worker has answered: an error of ours."""

from __future__ import annotations

from router.api.connection import ClientConnection
from router.api.guard import CLOSE, Said, raw_error
from router.api.http import retry_after
from router.api.request import Request
from router.errors import PrefillRefused, RouterError


def refuse(client: ClientConnection, request: Request, error: RouterError, own: bytes) -> bool:
    """Answer with an error of ours, with the header lines `own`. Whether the connection may stay."""
    lines = own
    if error.retry_after_seconds is not None:
        lines += b"Retry-After: %b\r\n" % retry_after(error.retry_after_seconds).encode()
    if not request.keep_alive:
        lines += CLOSE
    elif not request.http11:
        lines += b"Connection: keep-alive\r\n"
    said = Said(*error.answer) if isinstance(error, PrefillRefused) else None
    bodiless = request.method == "HEAD"
    client.write(
        raw_error(
            error.status,
            error.code,
            error.message,
            param=error.param,
            lines=lines,
            bodiless=bodiless,
            said=said,
        )
    )
    return request.keep_alive


class Refused:
    """A request that is only refused, to be served as those are that go to a worker."""

    def __init__(
        self, client: ClientConnection, request: Request, error: RouterError, own: bytes
    ) -> None:
        self._client = client
        self._request = request
        self._error = error
        self._own = own

    def start(self) -> None:
        stay = False
        try:
            stay = refuse(self._client, self._request, self._error, self._own)
        finally:
            self._client.served(stay)

    def leave(self) -> None:
        """Nothing is held for it."""
