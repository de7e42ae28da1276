"""Log lines: one a record, text or JSON, whatever is in the values.

Code logs a short message and, where there are facts, `extra={"fields": {...}}`; text shows them as
`key=value`, JSON as members. Control characters never reach the output as they are, so a value
that a client or a worker chose cannot forge a line.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

import msgspec

from tracking.trace import rfc3339

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}
OURS: Final = ("router", "tracking")
# C0, DEL, C1, the line separators some viewers break at, and surrogates that cannot be encoded.
UNSAFE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
NEEDS_QUOTES: Final = re.compile(r'[\s"=]|^$')


@contextmanager
def logging_to(
    stream: IO[str] | None = None,
    *,
    level: str = "info",
    format: str = "text",
    directory: str | None = None,
) -> Iterator[None]:
    """While inside: logs go to `stream` (None: standard output) and to a daily file.

    `level` (a key of LEVELS) is that of our own loggers; other libraries are heard from warnings
    on. The handlers found are put back at the end. Raises OSError if `directory` cannot be used.
    """
    formatter = JsonFormatter() if format == "json" else TextFormatter()
    handlers: list[logging.Handler] = [Stream(stream or sys.stdout)]
    if directory is not None:
        handlers.append(DailyFile(Path(directory)))
    for handler in handlers:
        handler.setFormatter(formatter)
    root = logging.getLogger()
    loggers = [root, *map(logging.getLogger, OURS)]
    before = [logger.level for logger in loggers]
    found = root.handlers[:]
    root.handlers[:] = handlers
    root.setLevel(max(LEVELS[level], logging.WARNING))
    for logger in loggers[1:]:
        logger.setLevel(LEVELS[level])
    try:
        yield
    finally:
        root.handlers[:] = found
        for logger, earlier in zip(loggers, before, strict=True):
            logger.setLevel(earlier)
        for handler in handlers:
            handler.close()


class TextFormatter(logging.Formatter):
    """`2025-07-28T10:26:31.123Z INFO router.app: message key=value`"""

    def format(self, record: logging.LogRecord) -> str:
        when = rfc3339(int(record.created * 1e6))
        line = f"{when} {record.levelname} {record.name}: {escape(record.getMessage())}"
        for key, value in _fields(record).items():
            line += f" {key}={_quoted(value)}"
        if record.exc_info:
            trace = self.formatException(record.exc_info)
            line += "".join(f"\n    {escape(part)}" for part in trace.split("\n"))
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object: timestamp, level, logger, message, the fields, and exception."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "timestamp": rfc3339(int(record.created * 1e6)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {key: value for key, value in _fields(record).items() if key not in line}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        # Encoded as ASCII would be safe too, but unreadable; only what can break a line is escaped.
        return UNSAFE.sub(
            _json_escape, msgspec.json.encode(_encodable(line), enc_hook=str).decode()
        )


class Lines(logging.Handler):
    """Writes a line for each record, and one to standard error when it begins to fail."""

    def __init__(self) -> None:
        super().__init__()
        self._failing = False

    def out(self, record: logging.LogRecord) -> IO[str]:
        """Where the line of `record` goes. Raises OSError."""
        raise NotImplementedError

    def emit(self, record: logging.LogRecord) -> None:
        try:
            out = self.out(record)
            out.write(self.format(record) + "\n")
            out.flush()
            self._failing = False
        except OSError as error:
            if not self._failing:
                with suppress(OSError):
                    sys.stderr.write(f"trace-router: cannot log: {error.strerror}\n")
            self._failing = True
        except Exception:  # a bug of ours, or a stream that was closed: no reason to fail
            self.handleError(record)


class Stream(Lines):
    """Writes to `stream`."""

    def __init__(self, stream: IO[str]) -> None:
        super().__init__()
        self._stream = stream

    def out(self, record: logging.LogRecord) -> IO[str]:
        return self._stream


class DailyFile(Lines):
    """Appends to `directory/trace-router.YYYY-MM-DD`, a new file each day (UTC)."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._day = ""
        self._file: IO[str] | None = None
        if not os.access(directory, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(directory))

    def out(self, record: logging.LogRecord) -> IO[str]:
        day = rfc3339(int(record.created * 1e6))[:10]
        if self._file is None or day != self._day:
            if self._file is not None:
                self._file.close()
            path = self._directory / f"trace-router.{day}"
            self._file, self._day = path.open("a", encoding="utf-8"), day
        return self._file

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()


def escape(text: str) -> str:
    """`text` on one line: what could break it out becomes `\\xNN` or `\\uNNNN`."""
    return UNSAFE.sub(_text_escape, text)


def _text_escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return {9: "\\t", 10: "\\n", 13: "\\r"}.get(
        code, f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    )


def _json_escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    fields = getattr(record, "fields", None)
    return fields if isinstance(fields, Mapping) else {}


def _quoted(value: object) -> str:
    text = escape(str(value))
    if NEEDS_QUOTES.search(text):
        return '"' + text.replace('"', '\\"') + '"'
    return text


def _encodable(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {str(key): _encodable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encodable(item) for item in value]
    return value
