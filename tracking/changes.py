"""Traces that have changed and are not encoded yet, and which of them are due.

What has ended is due at once. What still runs is due when it has waited for one whole wait of the
writer, so that a short request is written once, when it is over.
"""

from __future__ import annotations

from tracking.lifecycle import LiveTrace


class Changes:
    """In the order they came in, each once; it is encoded as it is when it is taken. Those that run are
    known here until their end, to be written again when they must be."""

    __slots__ = ("_dirty", "_open", "_wait")

    def __init__(self) -> None:
        self._dirty: dict[str, LiveTrace] = {}
        self._open: dict[str, LiveTrace] = {}
        self._wait = 0  # the number of the current wait, or of the last

    def __len__(self) -> int:
        return len(self._dirty)

    def put(self, live: LiveTrace) -> bool:
        """It has changed. False where it was among them already."""
        key = live.key
        if live.terminal:
            self._open.pop(key, None)
        if self._dirty.get(key) is live:
            return False
        if live.revision <= live.sent_revision:
            # Changed without a move: the store must see it as newer.
            live.revision = live.sent_revision + 1
        if not live.terminal:
            self._open[key] = live
        live.wait = self._wait
        self._dirty[key] = live
        return True

    def put_again(self, key: str) -> None:
        """What runs under that key, if anything does, is to be written again."""
        live = self._open.get(key)
        if live is not None:
            self._dirty.setdefault(key, live)

    def put_all_again(self) -> None:
        """All that run are to be written again."""
        for key, live in self._open.items():
            self._dirty.setdefault(key, live)

    def begin_wait(self) -> None:
        """What has changed before will have waited for a whole one when it is over."""
        self._wait += 1

    def due(self, most: int, everything: bool) -> list[str]:
        """Keys of those that are due, or of all, in order, at most so many."""
        keys: list[str] = []
        live: LiveTrace
        for key, live in self._dirty.items():
            if everything or live.terminal or live.wait < self._wait:
                keys.append(key)
                if len(keys) == most:
                    break
        return keys

    def ended(self) -> list[str]:
        """The keys of all that have ended."""
        return [key for key, live in self._dirty.items() if live.terminal]

    def take(self, key: str) -> LiveTrace:
        """It is encoded now. Raises KeyError where it is not among them."""
        return self._dirty.pop(key)

    def forget(self, key: str) -> None:
        """It cannot be written, however often."""
        self._open.pop(key, None)

    def known(self) -> dict[str, LiveTrace]:
        """By key: all that run, and what has ended."""
        return {**self._open, **self._dirty}
