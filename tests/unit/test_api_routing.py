"""Paths find their routes, and paths that could be read in two ways are refused."""

from __future__ import annotations

import pytest
from aiohttp import web

from router.api.routing import (
    Match,
    MethodNotAllowed,
    NotFound,
    Route,
    RouteTable,
    check_path,
    split_target,
)
from router.errors import BadRequest


async def handler(request: web.BaseRequest, params: dict[str, str]) -> web.Response:
    raise AssertionError("look-up alone calls no handler")


def table() -> RouteTable:
    return RouteTable(
        [
            Route("POST", "/generate", handler, "key"),
            Route("GET", "/v1/traces", handler, "key"),
            Route("DELETE", "/v1/traces", handler, "delete"),
            Route("GET", "/v1/traces/stats", handler, "key"),
            Route("GET", "/v1/traces/{request_id}", handler, "key"),
            Route("DELETE", "/v1/traces/{request_id}", handler, "delete"),
            Route("GET", "/workers/{worker}/jobs/{job}", handler, "admin"),
        ]
    )


def found(method: str, path: str) -> tuple[str, dict[str, str]]:
    match = table().match(method, path)
    assert isinstance(match, Match)
    return match.route.name, match.params


def test_a_plain_path_finds_its_route() -> None:
    assert found("POST", "/generate") == ("/generate", {})
    assert found("DELETE", "/v1/traces") == ("/v1/traces", {})


def test_a_segment_in_braces_takes_any_one_segment() -> None:
    assert found("GET", "/v1/traces/req-1") == ("/v1/traces/{request_id}", {"request_id": "req-1"})
    assert found("GET", "/workers/w/jobs/7") == (
        "/workers/{worker}/jobs/{job}",
        {"worker": "w", "job": "7"},
    )


def test_a_captured_segment_is_decoded() -> None:
    assert found("GET", "/v1/traces/a%3Ab%20c+d")[1] == {"request_id": "a:b c+d"}


def test_a_pattern_sent_as_a_path_is_a_segment_like_any_other() -> None:
    assert found("GET", "/v1/traces/{request_id}")[1] == {"request_id": "{request_id}"}


def test_a_plain_path_goes_before_a_pattern() -> None:
    assert found("GET", "/v1/traces/stats") == ("/v1/traces/stats", {})


def test_head_is_answered_where_get_is() -> None:
    assert found("HEAD", "/v1/traces/req-1")[0] == "/v1/traces/{request_id}"
    assert table().match("HEAD", "/generate") == MethodNotAllowed(("POST",))


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/traces", ("GET", "HEAD", "DELETE")),
        ("DELETE", "/v1/traces/stats", ("GET", "HEAD")),
        ("POST", "/v1/traces/req-1", ("GET", "HEAD", "DELETE")),
    ],
)
def test_a_known_path_with_another_method_says_which_are_allowed(
    method: str, path: str, allowed: tuple[str, ...]
) -> None:
    assert table().match(method, path) == MethodNotAllowed(allowed)


@pytest.mark.parametrize("path", ["/", "/nothing", "/v1/traces/", "/v1/traces/a/b", "/GENERATE"])
def test_an_unknown_path_is_not_found(path: str) -> None:
    assert table().match("GET", path) == NotFound()


@pytest.mark.parametrize(
    "path",
    [
        "/v1/../generate",
        "/v1/./traces",
        "/..",
        "/v1/%2e%2E/generate",
        "/v1/.%2e",
        "//generate",
        "/v1//traces",
        "/v1/traces/a%2fb",
        "/v1/traces/a%2Fb",
        "/v1/traces/a\\b",
        "/v1/traces/%",
        "/v1/traces/%zz",
        "/v1/traces/a%00b",
        "/v1/traces/a%0d%0ab",
        "/v1/traces/a b",
        "/v1/traces/ä",
        "/v1/traces/a#b",
        "/v1/traces/%ff",
    ],
)
def test_a_path_that_could_be_read_in_two_ways_is_refused(path: str) -> None:
    with pytest.raises(BadRequest, match=r"^the path "):
        table().match("GET", path)


def test_an_encoded_backslash_is_a_character_of_our_own_paths_only() -> None:
    assert found("GET", "/v1/traces/a%5cb") == ("/v1/traces/{request_id}", {"request_id": "a\\b"})
    with pytest.raises(BadRequest, match=r"^the path has an encoded backslash"):
        check_path("/v1/a%5cb")


@pytest.mark.parametrize("path", ["/", "/v1/a.b..c/...", "/a%20b", "/~x/@y;z=1", "/.well-known/x"])
def test_other_paths_pass_the_check(path: str) -> None:
    check_path(path)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/v1/traces?limit=1&x=/../", ("/v1/traces", "limit=1&x=/../")),
        ("/v1/traces", ("/v1/traces", "")),
        ("http://host:1/v1/../x?a=b", ("/v1/../x", "a=b")),
        ("http://host", ("/", "")),
    ],
)
def test_a_request_target_is_split_into_path_and_query(
    target: str, expected: tuple[str, str]
) -> None:
    assert split_target(target) == expected


@pytest.mark.parametrize("target", ["*", "", "host:80", "ftp://host/x", "http://[x/", "http:/x"])
def test_a_request_target_without_a_path_is_refused(target: str) -> None:
    with pytest.raises(BadRequest, match="request target"):
        split_target(target)


def test_two_routes_of_one_method_and_path_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="two routes for GET /x"):
        RouteTable([Route("GET", "/x", handler, "open")] * 2)
