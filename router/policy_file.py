"""A policy of the user's own: a class in a Python file, named on the command line."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Annotated, Final, cast

import msgspec
from msgspec import Meta

from router.policytype import PolicyType

if TYPE_CHECKING:
    from router.policies.base import Policy, PolicyConfig

FILE_AND_CLASS: Final = re.compile(r"(.+\.py):([A-Za-z_]\w*)")


class PolicyFileError(ValueError):
    """There is no usable policy there. The message says where and why."""


class PolicyFile(msgspec.Struct, frozen=True):
    """`mine.py:MyPolicy`."""

    path: str
    name: str

    @property
    def value(self) -> str:
        return str(self)

    def __str__(self) -> str:
        return f"{self.path}:{self.name}"


def parse_policy(text: str) -> object:
    """`FILE.py:CLASS` as the fields of a PolicyFile, any other name as it is."""
    found = FILE_AND_CLASS.fullmatch(text.strip())
    return text if found is None else {"path": found[1], "name": found[2]}


class ModelPolicy(msgspec.Struct, frozen=True):
    """The policy of one model, of `--model-policy`."""

    model: Annotated[str, Meta(min_length=1)]
    policy: PolicyType | PolicyFile

    def __str__(self) -> str:
        return f"{self.model}={self.policy}"


def parse_model_policy(text: str) -> dict[str, object]:
    """`MODEL=POLICY`, where the policy is a name or `FILE.py:CLASS`."""
    model, _, policy = text.partition("=")
    return {"model": model, "policy": parse_policy(policy)}


def load_policy(file: PolicyFile, config: PolicyConfig, random: Random) -> Policy:
    """A fresh policy of that class. Runs the file. Raises PolicyFileError.

    The class inherits `router.policies.base.Policy` and is built as `cls(config, random)`; its name
    in traces is its `name`, else that of the class.
    """
    from router.policies.base import Policy

    spec = importlib.util.spec_from_file_location(Path(file.path).stem, file.path)
    if spec is None or spec.loader is None or not Path(file.path).is_file():
        raise PolicyFileError(f"policy {file}: there is no such file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise PolicyFileError(f"policy {file}: {type(error).__name__}: {error}") from error
    found = getattr(module, file.name, None)
    if not isinstance(found, type) or Policy not in found.__mro__:
        raise PolicyFileError(
            f"policy {file}: expected a class {file.name} that inherits router.policies.base.Policy"
        )
    try:
        policy = cast(Policy, found(config, random))
    except Exception as error:
        raise PolicyFileError(f"policy {file}: {type(error).__name__}: {error}") from error
    if not hasattr(policy, "name"):
        policy.name = file.name
    return policy
