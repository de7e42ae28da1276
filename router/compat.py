"""Flags of sglang-router 0.3.2 that are accepted so that its command lines start here, and do
nothing: either they cannot matter in this router, or what they ask for is not there yet.

Their values are checked as far as sglang-router checks them. What was given is named in one
warning at start. Moving a line from here to `config.py` is how a flag begins to act.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from router.flags import Flag

UNUSED: Final = "Accepted without effect"
NOT_YET_SUPPORTED: Final = "Not supported yet"

TOKENIZER = Flag(UNUSED, "This router needs no tokenizer.")
PARSER = Flag(UNUSED, "Answers are passed on as they are.")
HISTORY = Flag(UNUSED, "No conversations are stored; traces go to --redis-url.")
HISTORY_SECRET = Flag(UNUSED, HISTORY.help, secret=True)
JWT = Flag(NOT_YET_SUPPORTED, "Admin access by JWT; use --admin-api-key.")
OPENTELEMETRY = Flag(UNUSED, "Spans go to OTEL_EXPORTER_OTLP_ENDPOINT; see docs/opentelemetry.md.")


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """One field a flag, with sglang-router's default. Nothing reads the values."""

    eviction_interval_secs: Annotated[
        int, Flag(UNUSED, "The prefix memory is bounded at every insert, not swept.")
    ] = 60
    worker_startup_check_interval: Annotated[
        int, Flag(UNUSED, "A worker that is not healthy is asked every second.", metavar="SECONDS")
    ] = 30
    model_path: Annotated[str | None, TOKENIZER] = None
    tokenizer_path: Annotated[str | None, TOKENIZER] = None
    chat_template: Annotated[str | None, TOKENIZER] = None
    tokenizer_cache_enable_l0: Annotated[bool, TOKENIZER] = False
    tokenizer_cache_l0_max_entries: Annotated[int, TOKENIZER] = 10000
    tokenizer_cache_enable_l1: Annotated[bool, TOKENIZER] = False
    tokenizer_cache_l1_max_memory: Annotated[int, TOKENIZER] = 52428800
    reasoning_parser: Annotated[str | None, PARSER] = None
    tool_call_parser: Annotated[str | None, PARSER] = None
    mcp_config_path: Annotated[
        str | None, Flag(UNUSED, "/v1/responses is passed on to a worker.")
    ] = None
    history_backend: Annotated[
        Literal["memory", "none", "oracle", "postgres", "redis"], HISTORY
    ] = "memory"
    oracle_wallet_path: Annotated[str | None, HISTORY] = None
    oracle_tns_alias: Annotated[str | None, HISTORY] = None
    oracle_connect_descriptor: Annotated[str | None, HISTORY_SECRET] = None
    oracle_username: Annotated[str | None, HISTORY] = None
    oracle_password: Annotated[str | None, HISTORY_SECRET] = None
    oracle_pool_min: Annotated[int, HISTORY] = 1
    oracle_pool_max: Annotated[int, HISTORY] = 16
    oracle_pool_timeout_secs: Annotated[int, HISTORY] = 30
    postgres_db_url: Annotated[str | None, HISTORY_SECRET] = None
    postgres_pool_max: Annotated[int, HISTORY] = 16
    redis_pool_max: Annotated[int, HISTORY] = 16
    redis_retention_days: Annotated[int, HISTORY] = 30
    mini_lb: Annotated[
        bool, Flag(UNUSED, "sglang-router's debugging proxy for prefill and decode.")
    ] = False

    backend: Annotated[
        Literal["sglang", "openai"], Flag(NOT_YET_SUPPORTED, "Any HTTP worker is passed through.")
    ] = "sglang"
    enable_trace: Annotated[bool, OPENTELEMETRY] = False
    otlp_traces_endpoint: Annotated[str, OPENTELEMETRY] = "localhost:4317"
    control_plane_audit_enabled: Annotated[
        bool, Flag(NOT_YET_SUPPORTED, "A log of admin calls.")
    ] = False
    jwt_issuer: Annotated[str | None, JWT] = None
    jwt_audience: Annotated[str | None, JWT] = None
    jwt_jwks_uri: Annotated[str | None, JWT] = None
    jwt_role_mapping: Annotated[tuple[str, ...], JWT] = ()
