"""The benchmark runs our router on a Python built as our image's is, and says on which."""

from __future__ import annotations

import sys

import pytest

from bench.interpreter import Interpreter, ask, choose


def interpreter(
    program: str, options: str = "", *, new: bool = True, system: bool = False, headers: bool = True
) -> Interpreter:
    return Interpreter(program, "3.12.1", new, options, system, headers)


RUNNING = interpreter("running", "--enable-shared")
OPTIMIZED = interpreter("optimized", "--enable-shared --enable-optimizations")
DISTRIBUTED = interpreter("distributed", "--enable-shared", system=True)


def test_the_running_one_is_taken_where_it_is_optimized():
    running = interpreter("running", "--enable-optimizations")
    assert choose(running, [DISTRIBUTED]) is running


@pytest.mark.parametrize("other", [OPTIMIZED, DISTRIBUTED], ids=lambda other: other.program)
def test_another_that_is_optimized_comes_before_a_running_one_that_is_not(other: Interpreter):
    assert choose(RUNNING, [None, interpreter("plain"), other]) is other


@pytest.mark.parametrize(
    "other",
    [
        interpreter("old", "--enable-optimizations", new=False),
        interpreter("bare", "--enable-optimizations", headers=False),
    ],
    ids=lambda other: other.program,
)
def test_where_none_can_be_used_the_running_one_is_and_that_is_said(other: Interpreter):
    taken = choose(RUNNING, [other])
    assert taken is RUNNING
    assert "without --enable-optimizations" in taken.built


def test_an_interpreter_says_what_it_is():
    said = ask(sys.executable)
    assert said is not None
    assert said.new_enough
    assert sys.version.startswith(said.version)
