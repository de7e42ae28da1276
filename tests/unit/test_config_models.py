"""The settings of many models, and of ranks: complete or refused."""

from __future__ import annotations

import pytest

from router.configure import from_arguments, from_keywords
from router.flag_types import ModelAlias
from router.flags import ConfigError
from router.policy_file import ModelPolicy, PolicyFile
from router.policytype import PolicyType


def test_aliases_and_policies_are_read_alike_from_everywhere() -> None:
    aliases = (ModelAlias("gpt-4", "org/llama:8b"), ModelAlias("small", "phi=3"))
    policies = (
        ModelPolicy("org/llama:8b", PolicyType.RoundRobin),
        ModelPolicy("phi", PolicyFile("mine.py", "Mine")),
    )
    line = (
        "--enable-igw --model-alias gpt-4=org/llama:8b small=phi=3 "
        "--model-policy org/llama:8b=round_robin phi=mine.py:Mine"
    )
    flags = from_arguments(line.split(), {})
    environment = from_arguments(
        [],
        {
            "TRACE_ROUTER_ENABLE_IGW": "1",
            "TRACE_ROUTER_MODEL_ALIAS": "gpt-4=org/llama:8b small=phi=3",
            "TRACE_ROUTER_MODEL_POLICY": "org/llama:8b=round_robin phi=mine.py:Mine",
        },
    )
    keywords = from_keywords(
        {
            "enable_igw": True,
            "model_alias": {"gpt-4": "org/llama:8b", "small": "phi=3"},
            "model_policy": {"org/llama:8b": "round_robin", "phi": "mine.py:Mine"},
        },
        {},
    )
    for config in (flags, environment, keywords):
        assert config.enable_igw
        assert config.model_alias == aliases
        assert config.model_policy == policies


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("--model-alias a=b", "--model-alias: only with --enable-igw"),
        ("--model-policy a=random", "--model-policy: only with --enable-igw"),
        ("--enable-igw --model-alias a=b a=c", "--model-alias: 'a' is given twice"),
        ("--enable-igw --model-alias a=b b=c", "--model-alias: a=b names an alias"),
        ("--enable-igw --model-policy a=random a=manual", "--model-policy: 'a' is given twice"),
        ("--dp-size 2", "--dp-size: only with --dp-aware"),
        ("--enable-igw --model-alias a", "--model-alias: expected ALIAS=MODEL"),
        ("--enable-igw --model-policy a=fastest", "--model-policy: expected MODEL=POLICY"),
    ],
)
def test_what_does_not_go_together_is_refused_in_words(line: str, problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        from_arguments(line.split(), {})
    assert problem in str(refused.value)
