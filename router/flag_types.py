"""The kinds of value that flags take: types with bounds, their wording, and how text is read."""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
from collections.abc import Sequence
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from router.core.worker import WorkerUrlError, normalise_worker_url
from router.flags import ConfigError

Positive = Annotated[float, Meta(gt=0)]
AtLeast0 = Annotated[int, Meta(ge=0)]
AtLeast1 = Annotated[int, Meta(ge=1)]
NotEmpty = Annotated[str, Meta(min_length=1)]
Port = Annotated[int, Meta(ge=0, le=65535)]
HeaderName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9!#$&'*+.^_`|~-]{1,128}\Z")]
PathPrefix = Annotated[str, Meta(pattern=r"^/[^\s?#]*\Z")]
NodeId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._:-]{1,64}\Z")]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,128}\Z")]
RedisUrl = Annotated[str, Meta(pattern=r"^(rediss?(\+(sentinel|cluster))?|unix)://.")]

ApiKey = Annotated[str, Meta(pattern=r"^[\x21-\x7e]+\Z")]

KEY_RULE: Final = "visible ASCII characters without spaces"
NODE_ID_RULE: Final = "names of at most 64 letters, digits, '.', '_', ':' or '-'"
NAME_RULE: Final = "at most 128 letters, digits, '.', '_' or '-'"
HEADERS_RULE: Final = "HTTP header names"


class AdminKey(msgspec.Struct, frozen=True):
    """A key of `--control-plane-api-keys`. Only those of role `admin` open the admin routes."""

    id: str
    name: str
    role: Literal["admin", "user"]
    key: ApiKey


class ModelAlias(msgspec.Struct, frozen=True):
    """Another name of a model, of `--model-alias`."""

    alias: NotEmpty
    model: NotEmpty

    def __str__(self) -> str:
        return f"{self.alias}={self.model}"


def parse_model_alias(text: str) -> dict[str, str]:
    alias, _, model = text.partition("=")
    return {"alias": alias, "model": model}


def parse_log_level(text: str) -> str:
    level = text.strip().lower()
    return "warn" if level == "warning" else level


def parse_worker_url(url: str) -> str:
    try:
        normalise_worker_url(url)
    except WorkerUrlError as error:
        raise ConfigError(str(error)) from None
    return url


class PrefillUrl(msgspec.Struct, frozen=True):
    """A prefill worker of `--prefill`; None leaves the bootstrap port to the engine."""

    url: str
    bootstrap_port: Port | None = None

    def __str__(self) -> str:
        return self.url if self.bootstrap_port is None else f"{self.url} {self.bootstrap_port}"


def gather_prefill(words: Sequence[object]) -> list[object]:
    """`URL [PORT|none]`, as often as one likes; from Python also pairs. Raises ConfigError."""
    found: list[object] = []
    for word in words:
        if isinstance(word, str) and (word.isdecimal() or word.lower() == "none"):
            if not found or not isinstance(found[-1], str):
                raise ConfigError(f"the bootstrap port {word} follows no URL")
            port = int(word) if word.isdecimal() else None
            found[-1] = {"url": found[-1], "bootstrap_port": port}
        elif isinstance(word, str):
            found.append(parse_worker_url(word))
        elif isinstance(word, Sequence) and len(word) == 2:
            found.append({"url": parse_worker_url(str(word[0])), "bootstrap_port": word[1]})
        else:
            found.append(word)
    return [{"url": item} if isinstance(item, str) else item for item in found]


def parse_mapping(text: str) -> dict[str, object]:
    """A JSON object; a key that is there twice is refused rather than one value lost."""

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        mapping = dict(pairs)
        for key in mapping:
            if sum(key == other for other, _ in pairs) > 1:
                raise ConfigError(f"{key!r} is given twice")
        return mapping

    return json.loads(text, object_pairs_hook=unique)  # type: ignore[no-any-return]


def parse_weights(text: str) -> dict[str, object]:
    weights = parse_mapping(text)
    if weights and not any(weights.values()):
        raise ValueError("nobody would get a request")
    return weights


def parse_admin_key(text: str) -> dict[str, str]:
    identity, name, role, key = text.split(":", 3)
    return {"id": identity, "name": name, "role": role.lower(), "key": key}


def default_router_id() -> str:
    host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:64] or "router"
    return f"{host}-{os.getpid()}-{secrets.token_hex(3)}"
