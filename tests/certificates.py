"""A certificate authority for tests, by the openssl program."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")


class Pair(NamedTuple):
    """Paths of a certificate and its private key, both PEM."""

    cert: Path
    key: Path


class Authority:
    """Signs certificates for localhost and 127.0.0.1. Files lie in `directory`."""

    def __init__(self, directory: Path) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("the openssl program is not installed")
        self._directory = directory
        self.cert = directory / "ca.pem"
        self._key = directory / "ca.key"
        self._openssl(
            *("req", "-x509", "-nodes", *NEW_KEY, "-subj", "/CN=test authority", "-days", "2"),
            *("-keyout", self._key, "-out", self.cert),
        )

    def issue(self, name: str, *, password: str | None = None) -> Pair:
        """A certificate with that common name; with `password` its key is encrypted."""
        pair = Pair(self._directory / f"{name}.pem", self._directory / f"{name}.key")
        request = self._directory / f"{name}.csr"
        locked = ("-nodes",) if password is None else ("-passout", f"pass:{password}")
        self._openssl(
            *("req", "-new", *NEW_KEY, *locked, "-subj", f"/CN={name}"),
            *("-keyout", pair.key, "-out", request),
        )
        names = self._directory / "names.txt"
        names.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        self._openssl(
            *("x509", "-req", "-in", request, "-CA", self.cert, "-CAkey", self._key),
            *("-CAcreateserial", "-days", "2", "-extfile", names, "-out", pair.cert),
        )
        return pair

    def _openssl(self, *arguments: str | Path) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
