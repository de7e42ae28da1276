"""Stand-ins for `sgl_kernel` and `torchvision`, of which there are no CPU builds; SGLang imports both.

Whatever is looked for in them is there, may be looked into and inherited from, and raises when it
is called. Imported at the start of SGLang's own Python, by a `.pth` file of its environment.
"""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

STUBBED = ("sgl_kernel", "torchvision")
REALLY_ABSENT = "sgl_kernel.scalar_type"  # SGLang has its own when this cannot be imported


class Missing(type):
    def __getattr__(cls, name: str) -> Missing:
        return missing(name)

    def __call__(cls, *args: object, **kwargs: object) -> object:
        raise NotImplementedError(f"{cls.__name__} has no CPU build")


def missing(name: str) -> Missing:
    if name.startswith("__"):
        raise AttributeError(name)
    return Missing(name, (), {})


class Stub(ModuleType):
    def __getattr__(self, name: str) -> Missing:
        return missing(name)


class Stubs(MetaPathFinder, Loader):
    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name.partition(".")[0] not in STUBBED or name == REALLY_ABSENT:
            return None
        return ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return Stub(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        module.__path__ = []
        module.__version__ = "0"  # type: ignore[attr-defined]
        if module.__name__ == "sgl_kernel":
            forget_the_gpu()


class Done:
    """An event of a stream that is never behind."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def record(self, stream: object = None) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def query(self) -> bool:
        return True


def forget_the_gpu() -> None:
    """SGLang's prefill pins the memory that it sends from, and waits for the GPU before it does."""
    import torch

    empty = torch.empty

    def unpinned(*args: object, pin_memory: bool = False, **kwargs: object) -> object:
        return empty(*args, **kwargs)

    torch.empty = unpinned
    torch.cuda.Event = Done
    torch.cuda.current_stream = lambda device=None: None


sys.meta_path.insert(0, Stubs())
