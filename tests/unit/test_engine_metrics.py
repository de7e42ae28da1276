"""Pages of several workers become one that Prometheus takes."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from router.api.engine_metrics import merge

PAGE = """\
# HELP sglang:num_running_reqs Running.
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{model_name="a}b"} 3.0
# HELP sglang:ttft Time.
# TYPE sglang:ttft histogram
sglang:ttft_bucket{le="1"} 1
sglang:ttft_bucket{le="+Inf"} 2
sglang:ttft_sum 0.5
sglang:ttft_count 2
lonely 7 1700000000000
"""


def test_families_are_joined_and_each_sample_names_its_worker() -> None:
    families = {
        family.name: family
        for family in text_string_to_metric_families(merge([("http://a:1", PAGE), ("b", PAGE)]))
    }
    assert set(families) == {"sglang_num_running_reqs", "sglang_ttft", "lonely"}
    running = families["sglang_num_running_reqs"]
    assert (running.type, running.documentation) == ("gauge", "Running.")
    assert [sample.labels for sample in running.samples] == [
        {"worker_addr": "http://a:1", "model_name": "a}b"},
        {"worker_addr": "b", "model_name": "a}b"},
    ]
    assert len(families["sglang_ttft"].samples) == 8
    page = merge([("http://a:1", PAGE), ("b", PAGE)])
    for worker in ("http://a:1", "b"):
        assert f'\nlonely{{worker_addr="{worker}"}} 7 1700000000000\n' in page


def test_each_family_is_introduced_once_and_its_lines_stand_together() -> None:
    lines = merge([("a", PAGE), ("b", PAGE)]).splitlines()
    assert sum(line.startswith("# TYPE sglang_ttft ") for line in lines) == 1
    places = [i for i, line in enumerate(lines) if line.startswith("sglang_ttft_")]
    assert places == list(range(places[0], places[0] + 8))


def test_what_is_no_metric_is_left_out() -> None:
    assert merge([("a", "<html>\n\n# a remark\nx y z{\n")]) == 'x{worker_addr="a"} y z{\n'
    assert merge([("a", "<html>nothing</html>")]) == ""


def test_a_workers_name_is_escaped() -> None:
    assert merge([('a"\\b', "x 1\n")]) == 'x{worker_addr="a\\"\\\\b"} 1\n'
