"""What a file of workers may say."""

from __future__ import annotations

import pytest

from router.discovery.file import MOST_BYTES, read_workers
from router.discovery.source import Found
from router.member import Details

HERE = "file:workers.json"


def test_workers_are_urls_or_objects_in_a_list_or_under_a_name():
    expected = [
        Found("http://a:1", HERE),
        Found("https://b", HERE, details=Details(priority=3, labels={"zone": "b"})),
    ]
    listed = b'["http://a:1", {"url": "https://b", "priority": 3, "labels": {"zone": "b"}}]'
    assert read_workers(listed, HERE) == expected
    assert read_workers(b'{"workers": %b}' % listed, HERE) == expected


def test_no_workers_is_an_answer():
    assert read_workers(b"[]", HERE) == read_workers(b'{"workers": []}', HERE) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "truncated"),
        (b'["http://a:1"', "truncated"),
        (b"\xff", "invalid character"),
        (b'["http://a\xff"]', "(?i)decode byte|invalid utf-8"),
        (b'["ftp://a"]', "expected http://HOST:PORT"),
        (b'["http://a:1", "http://b", "http://a:1/"]', "http://a:1/ is listed twice"),
        (b'[{"url": "http://a", "prio": 1}]', r"unknown field `prio` - at `\$\[0\]`"),
        (b'[{"url": "http://a", "priority": -1}]', r"at `\$\[0\].priority`"),
        (b'[{"priority": 1}]', "missing required field `url`"),
        (b"null", "Expected"),
        (b" " * (MOST_BYTES + 1), "larger than"),
    ],
    ids=lambda case: repr(case[:30]),
)
def test_what_is_wrong_is_said(text: bytes, reason: str):
    with pytest.raises(ValueError, match=reason):
        read_workers(text, HERE)
