"""The names under which a worker may be asked for a model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

# The field of a multipart form, as an upload of audio has it.
FORM_MODEL: Final = re.compile(rb'name="model"\r\n(?:[^\r\n]+\r\n)*\r\n([^\r\n]{1,256})\r\n')


class Served(NamedTuple):
    """`bases` are names of the model itself, the first is the main one; `adapters` those of LoRA
    adapters, which are models of their own."""

    bases: tuple[str, ...]
    adapters: tuple[str, ...]

    def names(self) -> dict[str, tuple[str, ...]]:
        """Every name that is answered to, with the names whose settings hold for it, nearest first.

        An adapter is also asked for as `base:adapter`, as SGLang has it.
        """
        names: dict[str, tuple[str, ...]] = {base: (base,) for base in self.bases}
        for adapter in self.adapters:
            names.setdefault(adapter, (adapter, *self.bases))
            for base in self.bases:
                both = f"{base}:{adapter}"
                names.setdefault(both, (both, adapter, base))
        return names


def served(given: str | None, listed: Sequence[str], adapters: Iterable[str]) -> Served:
    """What a worker serves: `given` when it was registered, else what it lists itself.

    A name that was given stands for the model, whatever the worker calls it; its adapters stay.
    """
    own = tuple(dict.fromkeys(adapters))
    bases = tuple(name for name in dict.fromkeys(listed) if name not in own)
    return Served(bases if given is None else (given,), own)


def form_model(body: bytes) -> str | None:
    """The model that a multipart form names."""
    found = FORM_MODEL.search(body)
    return None if found is None else found[1].decode("utf-8", "replace")
