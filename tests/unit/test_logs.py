"""Log lines: one a record, whatever a client or a worker puts into the values."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
from pathlib import Path

import pytest

from router.logs import DailyFile, TextFormatter, logging_to

log = logging.getLogger("router.test_logs")


def logged(
    message: str, /, *args: object, format: str = "text", level: str = "info", **fields: object
) -> str:
    stream = io.StringIO()
    with logging_to(stream, level=level, format=format):
        log.info(message, *args, extra={"fields": fields})
    return stream.getvalue()


def test_a_text_line_has_time_level_logger_message_and_fields() -> None:
    line = logged("request ended", status=200, worker="worker-0", reason="shortest queue")
    when, rest = line.split(" ", 1)
    assert len(when) == len("2025-07-28T10:26:31.123Z")
    assert rest == (
        'INFO router.test_logs: request ended status=200 worker=worker-0 reason="shortest queue"\n'
    )


def test_a_json_line_has_the_same_as_members() -> None:
    line = json.loads(logged("request %s", "ended", format="json", status=200, seconds=0.5))
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "router.test_logs",
        "message": "request ended",
        "status": 200,
        "seconds": 0.5,
    }


def test_a_field_cannot_pass_for_the_message() -> None:
    line = json.loads(logged("ended", format="json", message="forged"))
    assert line["message"] == "ended"


HOSTILE = "a\nb\r\x1b[31mc\x00\x7f\x85\u2028d\ud800\te"


@pytest.mark.parametrize("format", ["text", "json"])
def test_control_characters_never_reach_the_output(format: str) -> None:
    for line in (logged("%s", HOSTILE, format=format), logged("x", format=format, value=HOSTILE)):
        line.encode()
        assert line.endswith("\n")
        assert line[:-1].isprintable()


def test_json_keeps_the_value_readable() -> None:
    line = json.loads(logged("x", format="json", value="a\nb\x85é", more=["\ud800"]))
    assert line["value"] == "a\nb\x85é"
    assert line["more"] == ["\\ud800"]


def test_an_exception_cannot_forge_a_line() -> None:
    stream = io.StringIO()
    with logging_to(stream):
        try:
            raise ValueError("x\n2025-07-28T10:26:31.123Z INFO router: forged")
        except ValueError:
            log.exception("failed")
    first, *rest = stream.getvalue().splitlines()
    assert first.endswith("ERROR router.test_logs: failed")
    assert rest
    assert all(line.startswith("    ") for line in rest)


def test_the_level_is_that_of_our_loggers_and_others_are_heard_from_warnings_on() -> None:
    assert logged("hidden", level="warn") == ""
    stream = io.StringIO()
    with logging_to(stream, level="debug"):
        logging.getLogger("tracking.test_logs").debug("ours")
        logging.getLogger("somebody.else").info("theirs, unheard")
        logging.getLogger("somebody.else").warning("theirs, heard")
    assert "ours" in stream.getvalue()
    assert "theirs, heard" in stream.getvalue()
    assert "unheard" not in stream.getvalue()


def test_what_was_set_up_before_is_put_back() -> None:
    root = logging.getLogger()
    before = (root.handlers[:], root.level, logging.getLogger("router").level)
    logged("x")
    assert (root.handlers[:], root.level, logging.getLogger("router").level) == before


def test_a_directory_gets_a_file_with_the_same_lines(tmp_path: Path) -> None:
    stream = io.StringIO()
    with logging_to(stream, directory=str(tmp_path / "logs")):
        log.info("hello")
    (file,) = (tmp_path / "logs").iterdir()
    assert file.name.startswith("trace-router.20")
    assert file.read_text() == stream.getvalue()


def test_each_day_has_its_file(tmp_path: Path) -> None:
    handler = DailyFile(tmp_path)
    handler.setFormatter(TextFormatter())
    for unix_seconds in (86399.9, 86400.0, 86401.0):
        record = logging.LogRecord("router", logging.INFO, "", 0, "x", (), None)
        record.created = unix_seconds
        handler.emit(record)
    handler.close()
    lines = {file.name: len(file.read_text().splitlines()) for file in tmp_path.iterdir()}
    assert lines == {"trace-router.1970-01-01": 1, "trace-router.1970-01-02": 2}


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"), logging_to(directory=str(tmp_path / "file")):
        pass


class Disk(io.StringIO):
    full = True

    def flush(self) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_where_nothing_can_be_written_is_told_once_each_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    disk = Disk()
    with logging_to(disk):
        for full in (True, True, False, True, True):
            disk.full = full
            log.info("x")
    assert capsys.readouterr().err == 2 * "trace-router: cannot log: No space left on device\n"
