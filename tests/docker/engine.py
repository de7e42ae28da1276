"""A Docker engine of our own: `dockerd` from Debian's docker.io, gone when the tests are.

Two kinds share what is kept on disk, one after the other. The builder runs in the machine's network,
because `pip install` in a build needs it, and touches neither its interfaces nor its firewall. The
other runs in a network namespace that knows nobody: published ports, bridges and rules are in there,
nothing can be pulled, and containers reach each other only.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

NEEDS = "dockerd", "docker", "docker-init", "containerd", "runc", "iptables", "debootstrap", "ip"
CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1
READY_SECONDS = 60.0
STOP_SECONDS = 60.0
# What a builder must leave alone: the machine's network is not ours.
HANDS_OFF = "--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-masq=false"
SEARCHED = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

Environment = dict[str, str]

_libc = ctypes.CDLL(None, use_errno=True)


def require_parts() -> None:
    """Skip, saying why, where no engine can be started."""
    if os.geteuid() != 0:
        pytest.skip("a Docker engine of one's own is started by root only")
    if missing := [name for name in NEEDS if not shutil.which(name, path=SEARCHED)]:
        pytest.skip(
            f"{', '.join(missing)} missing: apt-get install --no-install-recommends "
            "docker.io debootstrap iptables iproute2"
        )


@contextmanager
def network_of_its_own() -> Iterator[None]:
    """This thread, and what it starts, in a new network namespace that has only loopback."""
    with Path("/proc/thread-self/ns/net").open("rb") as before:
        if _libc.unshare(CLONE_NEWNET) != 0:
            pytest.skip(f"no network namespace to be had: {os.strerror(ctypes.get_errno())}")
        try:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            yield
        finally:
            if _libc.setns(before.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "cannot go back to the machine's network")


def store() -> Path:
    """Where images and build layers are kept from one run to the next."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "llm-trace-router" / "docker"


@contextmanager
def engine(*, builder: bool) -> Iterator[Environment]:
    """A running engine; the environment in which `docker` and `docker-compose` talk to it."""
    data = store()
    data.mkdir(parents=True, exist_ok=True)
    # Short: the path of a socket in it has a limit.
    run = Path(tempfile.mkdtemp(prefix="dockerd-"))
    log = run / "log"
    host = f"unix://{run}/sock"
    command = ["dockerd", f"--host={host}", f"--data-root={data / 'data'}", f"--pidfile={run}/pid"]
    command += [f"--exec-root={run}/exec", "--storage-driver=overlay2", "--oom-score-adjust=0"]
    command += [*HANDS_OFF, "--ip-forward=false"] if builder else []
    environment = {**os.environ, "DOCKER_HOST": host, "PATH": SEARCHED, "DOCKER_CONFIG": str(run)}
    with (data / "lock").open("w") as lock, log.open("wb") as output:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one engine at a time
        daemon = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, preexec_fn=_end_with_us
        )
        try:
            _wait_for(daemon, log, environment)
            yield environment
        finally:
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
    for namespace in run.glob("exec/netns/*"):  # dockerd leaves its own mounted
        subprocess.run(["umount", str(namespace)], capture_output=True, check=False)
    shutil.rmtree(run, ignore_errors=True)


def said(command: Sequence[str], environment: Environment, *, given: str = "") -> str:
    """What a command prints when it is `given` a text; an error shows what it complained of."""
    run = subprocess.run(
        command, env=environment, input=given, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, f"{' '.join(command)}\n{run.stdout[-3000:]}\n{run.stderr[-3000:]}"
    return run.stdout


def _end_with_us() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait_for(daemon: subprocess.Popen[bytes], log: Path, environment: Environment) -> None:
    deadline = time.monotonic() + READY_SECONDS
    info = ["docker", "info", "--format", "{{.ServerVersion}}"]
    while subprocess.run(info, env=environment, capture_output=True, check=False).returncode:
        assert daemon.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.1)
