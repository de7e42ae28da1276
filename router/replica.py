"""`python -m router.replica`: one of several processes of one router; see `router.processes`."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from functools import partial

import msgspec

from router.app import Sockets, run
from router.cli import logging_of
from router.processes import READY, Order


def main() -> int:
    supervisor = socket.socket(fileno=os.dup(sys.stdin.fileno()))
    with supervisor.makefile("rb") as told:
        order = msgspec.json.decode(told.readline(), type=Order)
    threading.Thread(target=stop_with, args=(supervisor,), daemon=True).start()
    inherited = Sockets(
        serving=[socket.socket(fileno=fd) for fd in order.sockets],
        metrics=[socket.socket(fileno=fd) for fd in order.metrics_sockets],
        siblings=order.siblings,
        number=order.number,
        ready=partial(supervisor.sendall, READY),
    )
    with logging_of(order.config):
        return run(order.config, inherited)


def stop_with(supervisor: socket.socket) -> None:
    """Its end of the connection is closed when it is gone, however it went."""
    try:
        while supervisor.recv(1):
            pass
    except ConnectionError:
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
