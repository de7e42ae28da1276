"""Images without a registry: stand-ins made of Debian's packages under the names our files use.

They prove what docker-compose.yml and the Dockerfile do, not that the published images behave like
them. So each is given what the published one is known for: its user, entry point, stop signal,
volume. Grafana is not in Debian and has no stand-in. Python is Debian's, or the one whose prefix
`STAND_IN_PYTHON` names: built on this release of Debian, and of the version the Dockerfile asks for.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import ssl
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.docker.engine import Environment, said

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "ca-certificates,haproxy,prometheus,python-is-python3,python3,python3-pip,python3-venv,"
    "redis-server,wget"
)
STAND_INS = {
    "python": """
        RUN mkdir -p /var/cache/apt/archives/partial \\
         && apt-get update \\
         && apt-get install --yes --no-install-recommends gcc libc6-dev python3-dev
        CMD ["python"]
    """,
    "python slim": """
        RUN mkdir -p /var/cache/apt/archives/partial
        CMD ["python"]
    """,
    # The published one takes clients from outside without a password.
    "redis": """
        RUN mkdir -p /data && chown 999:1000 /data
        RUN printf '#!/bin/sh\\nexec /usr/bin/redis-server "$@" --protected-mode no\\n' \\
                > /usr/local/bin/redis-server \\
         && chmod 755 /usr/local/bin/redis-server
        VOLUME /data
        WORKDIR /data
        CMD ["redis-server"]
    """,
    "haproxy": """
        USER haproxy
        WORKDIR /var/lib/haproxy
        STOPSIGNAL SIGUSR1
        CMD ["haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]
    """,
    "prom/prometheus": """
        RUN mkdir -p /prometheus && chown nobody:nogroup /prometheus
        USER nobody
        VOLUME /prometheus
        WORKDIR /prometheus
        ENTRYPOINT ["prometheus"]
        CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
    """,
}

# Its pip trusts what Debian's does.
OTHER_PYTHON = """
    COPY include /usr/local/include
    COPY lib /usr/local/lib
    COPY bin/python3 /usr/local/bin/python
    ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt
    RUN rm -r /usr/local/lib/python3.*/site-packages/* && ldconfig && python -m ensurepip --default-pip
"""


def named() -> set[str]:
    """The images that docker-compose.yml and the Dockerfile start from."""
    compose = (ROOT / "docker-compose.yml").read_text()
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    images = re.findall(r"^ +image: (\S+)$", compose, re.M)
    images += re.findall(r"^FROM (\S+:\S+)", dockerfile, re.M)
    return {image for image in images if kind(image) in STAND_INS}


def kind(image: str) -> str:
    """The key of its stand-in: its name, and that it has no compiler."""
    name, _, tag = image.rpartition(":")
    return f"{name} slim" if "slim" in tag else name


def make_stand_ins(environment: Environment) -> None:
    """Have all of them there; the first time takes a minute or two."""
    base = f"stand-in:{hashlib.sha256(PACKAGES.encode()).hexdigest()[:12]}"
    if not said(["docker", "images", "--quiet", base], environment):
        _import_debian(base, environment)
    bases = dict.fromkeys(named(), base)
    if prefix := os.environ.get("STAND_IN_PYTHON"):
        own = f"{base}-python"
        build = ["docker", "build", "--quiet", "--tag", own, "--file", "-", prefix]
        said(build, environment, given=f"FROM {base}\n{OTHER_PYTHON}")
        bases |= {image: own for image in bases if image.startswith("python:")}
    for image, base_image in sorted(bases.items()):
        build = ["docker", "build", "--quiet", "--network=host", "--tag", image, "-"]
        said(build, environment, given=f"FROM {base_image}\n{STAND_INS[kind(image)]}")


def _import_debian(name: str, environment: Environment) -> None:
    """A small Debian with the packages, from where this machine has its own."""
    listed = ["apt-get", "indextargets", "--format", "$(RELEASE) $(SITE)", "Created-By: Packages"]
    sources = said(listed, environment).splitlines()
    if not sources:
        pytest.skip("apt-get knows no source of packages to make images of")
    release, mirror = sources[0].split()
    with tempfile.TemporaryDirectory(prefix="stand-in-") as folder:
        root = Path(folder, "root")
        options = ["--variant=minbase", f"--include={PACKAGES}"]
        said(["debootstrap", *options, release, str(root), mirror], environment)
        shutil.rmtree(root / "var/cache/apt/archives")
        # What this machine trusts; builds fetch packages as it does.
        trusted = ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt"
        shutil.copy(trusted, root / "etc/ssl/certs/ca-certificates.crt")
        files = subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE)
        assert files.stdout is not None
        subprocess.run(
            ["docker", "import", "-", name],
            env=environment,
            stdin=files.stdout,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        files.stdout.close()
        assert files.wait() == 0
