"""Settings as they may be shown: what differs from the defaults, secrets masked."""

from __future__ import annotations

import re

import msgspec

from router.flags import options_of, plain


def effective(config: msgspec.Struct) -> str:
    """What differs from the defaults, on one line, secrets masked."""
    parts = []
    for option in options_of(type(config)):
        value = getattr(config, option.name)
        if value != option.default:
            parts.append(f"{option.name}={masked(value) if option.flag.secret else plain(value)}")
    return " ".join(parts)


def masked(secret: object) -> str:
    """A secret as it may be shown: of a URL all but its password, else nothing."""
    if isinstance(secret, str) and "://" in secret:
        hidden = re.sub(r"://([^:@/]*):?.*@", r"://\1:***@", secret)
        return re.sub(r"([?&](?:sentinel_)?password=)[^&#]*", r"\1***", hidden)
    return "***"
