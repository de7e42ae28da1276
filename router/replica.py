"""`python -m router.replica`: one of several processes of one router; see `router.processes`."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from functools import partial
from typing import Final

import msgspec

from router.app import Sockets
from router.cli import logging_of
from router.processes import READY, Order
from router.serving import run

SLACK_SECONDS: Final = 15.0  # a stop also flushes traces, for 5 s at most


def main() -> int:
    supervisor = socket.socket(fileno=os.dup(sys.stdin.fileno()))
    with supervisor.makefile("rb") as told:
        order = msgspec.json.decode(told.readline(), type=Order)
    config = order.config
    longest = config.drain_secs + config.shutdown_grace_period_secs + SLACK_SECONDS
    threading.Thread(target=stop_with, args=(supervisor, longest), daemon=True).start()
    inherited = Sockets(
        serving=[socket.socket(fileno=fd) for fd in order.sockets],
        metrics=[socket.socket(fileno=fd) for fd in order.metrics_sockets],
        siblings=order.siblings,
        number=order.number,
        ready=partial(supervisor.sendall, READY),
    )
    with logging_of(config):
        return run(config, inherited)


def stop_with(supervisor: socket.socket, longest_seconds: float) -> None:
    """Its end of the connection is closed when it is gone, however it went.

    Nobody is left who would end a replica that does not stop: after `longest_seconds` it is cut off.
    """
    try:
        while supervisor.recv(1):
            pass
    except ConnectionError:
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(longest_seconds)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
