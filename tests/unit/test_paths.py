"""Which paths go to a worker."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.paths import CONTROL, GENERATION, OWN, Forwarded, ForwardPaths

PATHS = ForwardPaths()
OTHER = Forwarded("other", False)


@pytest.mark.parametrize(
    "path",
    [
        *("/generate", "/v1/chat/completions", "/v1/completions", "/v1/embeddings"),
        *("/v1/responses", "/v1/rerank", "/v1/classify", "/v1/score", "/rerank", "/classify"),
        *("/score", "/embed", "/tokenize", "/detokenize"),
    ],
)
def test_inference_passes_under_its_own_label_and_may_be_repeated(path: str) -> None:
    assert PATHS.find(path) == Forwarded(path, True)


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/files", "/v1/audio/speech", "/v1/responses/resp_1/cancel", "/v1/unheard/of"),
        *("/v1/tracesque", "/v1/modelsque", "/v1/generate/", "/v1/rlhf"),
    ],
)
def test_unknown_paths_under_v1_pass_under_one_label_and_are_not_repeated(path: str) -> None:
    assert PATHS.find(path) == OTHER


@pytest.mark.parametrize(
    "path",
    [
        *("/update_weights_from_disk", "/shutdown", "/start_profile", "/release_memory_occupation"),
        *("/slots", "/sleep", "/v1/load_lora_adapter", "/v1/unload_lora_adapter"),
        *("/v1/rl", "/v1/rl/pause", "/v1/rl/weights/update"),
    ],
)
def test_control_paths_do_not_pass(path: str) -> None:
    assert PATHS.find(path) is None


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/%6coad_lora_adapter", "/v1/load_lora_adapter/", "/v1/Load_LoRA_Adapter"),
        *("/v1/%72l/pause", "/v1/rl%2Fpause", "/v1/unload_lora_adapter/x", "/v1/shut%64own"),
    ],
)
def test_control_paths_do_not_pass_in_disguise(path: str) -> None:
    assert PATHS.find(path) is None


@pytest.mark.parametrize("segment", CONTROL)
def test_no_control_path_passes_with_or_without_v1(segment: str) -> None:
    assert PATHS.find(f"/{segment}") is None
    assert PATHS.find(f"/v1/{segment}") is None


@pytest.mark.parametrize("path", [*OWN, "/v1/traces/abc", "/v1/models/m", "/workers/1", "/ui/x"])
def test_our_own_paths_do_not_pass_even_when_named(path: str) -> None:
    assert PATHS.find(path) is None
    assert ForwardPaths(["/", "/*", path]).find(path) is None


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/", "/V1/files", "/props", "/generate/", "/x/v1/y"]
)
def test_unknown_paths_elsewhere_do_not_pass(path: str) -> None:
    assert PATHS.find(path) is None


def test_named_paths_pass_with_what_lies_below_them() -> None:
    paths = ForwardPaths(["/props", "/v1/rl/", "/update_weights*"])
    for path in ("/props", "/props/", "/props/x", "/v1/rl", "/v1/rl/pause"):
        assert paths.find(path) == OTHER
    for path in ("/update_weights", "/update_weights_from_disk", "/update_weights/x"):
        assert paths.find(path) == OTHER
    for path in ("/propsy", "/prop", "/v1/load_lora_adapter", "/update_weight"):
        assert paths.find(path) is None


@given(st.sampled_from(CONTROL), st.data())
def test_however_a_control_path_is_written_it_does_not_pass(segment: str, data) -> None:
    written = "".join(
        data.draw(st.sampled_from([c, c.upper(), f"%{ord(c):02x}", f"%{ord(c):02X}", quote(c)]))
        for c in segment
    )
    tail = data.draw(st.sampled_from(["", "/", "/x", "%2Fx"]))
    assert PATHS.find(f"/v1/{written}{tail}") is None
    assert PATHS.find(f"/{written}{tail}") is None


@given(st.text())
def test_labels_are_bounded_whatever_is_asked_for(path: str) -> None:
    found = PATHS.find(path)
    assert found is None or found.label in GENERATION | {"other"}
