"""A router for LLM inference that can tell which worker served a request, why, and how it went.

from router import PolicyType, Router
Router(worker_urls=["http://localhost:30005", "http://localhost:30006"],
       policy=PolicyType.CacheAware, port=30009).start()
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from router.launch import Router
    from router.policytype import PolicyType

__all__ = ["PolicyType", "Router"]


def __getattr__(name: str) -> object:
    # Each module of this package runs this file first; the settings are loaded only when asked for.
    if name == "Router":
        from router.launch import Router

        return Router
    if name == "PolicyType":
        from router.policytype import PolicyType

        return PolicyType
    raise AttributeError(f"module 'router' has no attribute {name!r}")
