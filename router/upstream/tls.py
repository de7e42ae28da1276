"""TLS contexts: for the router's own server, and for its connections to workers.

Files are read at start, so that a wrong one refuses to start instead of failing the first request.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence

from router.flags import ConfigError


def server_context(cert_path: str | None, key_path: str | None) -> ssl.SSLContext | None:
    """For `--tls-cert-path` and `--tls-key-path`; None without them. Raises ConfigError."""
    if cert_path is None or key_path is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _load_pair(context, cert_path, key_path, "--tls-cert-path", "--tls-key-path")
    return context


def worker_context(
    ca_cert_paths: Sequence[str], cert_path: str | None, key_path: str | None
) -> ssl.SSLContext:
    """For workers behind https: `--ca-cert-paths` are trusted beside the system's own.

    With `--client-cert-path` and `--client-key-path` the router shows who it is. Raises
    ConfigError.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for path in ca_cert_paths:
        try:
            context.load_verify_locations(cafile=path)
        except ssl.SSLError:
            raise ConfigError(f"--ca-cert-paths: {path!r} holds no certificate in PEM") from None
        except OSError as error:
            raise ConfigError(f"--ca-cert-paths: cannot read {path!r}: {error.strerror}") from None
    if cert_path is not None and key_path is not None:
        _load_pair(context, cert_path, key_path, "--client-cert-path", "--client-key-path")
    return context


def _load_pair(
    context: ssl.SSLContext, cert_path: str, key_path: str, cert_flag: str, key_flag: str
) -> None:
    for flag, path in ((cert_flag, cert_path), (key_flag, key_path)):
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            raise ConfigError(f"{flag}: cannot read {path!r}: {error.strerror}") from None
    try:
        context.load_cert_chain(cert_path, key_path, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            problem = f"the key in {key_path!r} does not belong to the certificate in {cert_path!r}"
        else:
            problem = f"{cert_path!r} and {key_path!r} are no certificate and key in PEM"
        raise ConfigError(f"{cert_flag}, {key_flag}: {problem}") from None
    except _Encrypted:
        raise ConfigError(f"{key_flag}: the key in {key_path!r} needs a password") from None


class _Encrypted(Exception):
    """OpenSSL asked for a password; without this it would ask at the terminal, and wait."""


def _no_password() -> str:
    raise _Encrypted
