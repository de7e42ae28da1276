"""`--policy mine.py:MyPolicy`: the user's own policy, and what is said where it cannot be used."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random

import pytest

from router.configure import from_keywords
from router.policies import PolicyConfig
from router.policy_file import PolicyFile, PolicyFileError, load_policy
from router.policytype import PolicyType
from tests.choosing import fleet, picks, prompt, shown
from tests.running import call, running, sim_worker

DOCS = (Path(__file__).parents[2] / "docs" / "policies.md").read_text()
(EXAMPLE,) = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)


@pytest.fixture
def example(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(EXAMPLE)
    return path


def test_a_file_and_a_class_are_read_from_the_flag() -> None:
    config = from_keywords({"policy": "some/mine.py:MyPolicy"}, {})
    assert config.policy == PolicyFile("some/mine.py", "MyPolicy")
    assert config.policy.value == "some/mine.py:MyPolicy"
    assert from_keywords({"policy": "random"}, {}).policy is PolicyType.Random


def test_the_example_in_the_docs_works(example: Path) -> None:
    policy = load_policy(PolicyFile(str(example), "Lightest"), PolicyConfig(), Random(1))
    workers = fleet(0, 0)
    assert policy.name == "Lightest"
    assert picks(policy, workers, ["a long text", "short", "short", "x"]) == [
        "worker-0", "worker-1", "worker-1", "worker-1",
    ]  # fmt: skip
    decision = shown(policy.choose(prompt("t"), workers, 0.0), workers)
    assert decision.candidates[0].numbers == {"in_flight": 0, "sent": 11}


async def test_it_routes_requests_and_its_name_and_numbers_are_in_the_trace(example: Path) -> None:
    async with (
        sim_worker() as one,
        sim_worker() as two,
        running(
            one.url,
            two.url,
            policy=PolicyFile(str(example), "Lightest"),
            enable_request_tracking=True,
        ) as app,
    ):
        for number in range(2):
            headers = {"X-Request-Id": f"own-{number}"}
            await call(app, "POST", "/generate", {"text": "hello"}, headers=headers)
        trace = (await call(app, "GET", "/v1/traces/own-1")).json
        assert (trace["routing_policy"], trace["node_id"]) == ("Lightest", "worker-1")
        assert '"sent":0' in (await call(app, "GET", "/v1/traces/own-1")).text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named"),
        ("x = (", "SyntaxError"),
        ("Mine = 3", "expected a class Mine that inherits router.policies.base.Policy"),
        ("class Mine: pass", "expected a class Mine that inherits"),
        (
            "from router.policies.base import Policy\nclass Mine(Policy):\n"
            "    def __init__(self): pass",
            "TypeError",
        ),
    ],
)
def test_a_policy_that_cannot_be_used_refuses_the_start_and_says_why(
    tmp_path: Path, content: str | None, message: str
) -> None:
    path = tmp_path / "mine.py"
    if content is not None:
        path.write_text(content)
    with pytest.raises(PolicyFileError) as refused:
        load_policy(PolicyFile(str(path), "Mine"), PolicyConfig(), Random(1))
    assert message in str(refused.value)
    assert f"{path}:Mine" in str(refused.value)
