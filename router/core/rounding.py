"""As many digits as mean something: more are noise, and bytes of every trace.

For numbers that are not negative. A third of the cost of `round`.
"""

from __future__ import annotations


def rounded(seconds: float) -> float:
    """To a microsecond."""
    return int(seconds * 1e6 + 0.5) / 1e6


def rounded_share(share: float) -> float:
    """0..1 to four digits."""
    return int(share * 1e4 + 0.5) / 1e4
