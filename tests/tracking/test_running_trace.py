"""A trace that runs is written with every field that it has."""

from __future__ import annotations

from tests.tracking.traces import live
from tracking.trace import Trace, TraceDetail


def test_each_field_of_a_row_is_in_its_place():
    one = live("k")
    told = {name: f"the {name}" for name in Trace.__struct_fields__ if name != "trimmed"}
    for name, value in told.items():
        assert hasattr(one, name)
        setattr(one, name, value)
    row = one.row()
    assert {name: getattr(row, name) for name in told} == told
    assert row.trimmed is None  # which only a record can be


def test_each_field_of_a_detail_is_in_its_place():
    one = live("k")
    told = {name: [name] for name in TraceDetail.__struct_fields__}
    for name, value in told.items():
        assert hasattr(one, name)
        setattr(one, name, value)
    detail = one.detail()
    assert {name: getattr(detail, name) for name in told} == told
