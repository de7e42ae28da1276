"""What an endpoint of ours takes and answers, said beside its route; `/openapi.json` is made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from router.errors import RouterError
from tracking.query import Parameter
from tracking.values import Schema, Value


class Plain(msgspec.Struct, frozen=True):
    """A body that is not JSON."""

    media_type: str


class Either(msgspec.Struct, frozen=True):
    """One of two bodies, which need not be told apart."""

    one: object
    other: object


JsonObject = dict[str, Any]
TEXT: Final = Plain("text/plain")
ANYTHING: Final[Schema] = {"type": "string"}


class About(msgspec.Struct, frozen=True, kw_only=True):
    """`answers`: for each status that is no RouterError the type of its JSON body, `Either`, a `Plain`,
    or None for none. `headers` of the answers by name; `body` is the type of the JSON that is sent.

    Keys, and what the table of routes itself refuses, are not said here."""

    summary: str
    answers: Mapping[int, object]
    errors: Sequence[type[RouterError]] = ()
    query: Mapping[str, Parameter] = {}
    required: Sequence[str] = ()
    path: Mapping[str, Schema] = {}
    body: object = None
    headers: Mapping[str, str] = {}


def asked(help: str, schema: Schema = ANYTHING) -> Parameter:
    """A parameter that its handler reads itself."""
    return Parameter(help, Value(help, lambda text, _now_us: text, schema))
