"""Real engines as processes of a test."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.demo import model as llama_model
from tests.processes import Process, answers, free_port

DIRECTORY = os.environ.get("TRACE_ROUTER_ENGINES")  # where `tests.engines.install` has put them


class Engine(Process):
    """One real engine, serving a small model on the CPU."""

    model = "tiny"
    takes_request_id = False
    stopped: str | None = None  # the trace's error when a SIGTERM ends a stream; None: it does not

    def __init__(self) -> None:
        super().__init__()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str]:
        self.port = self.port or free_port()
        return self.serve()

    def serve(self) -> Sequence[str]:
        raise NotImplementedError

    async def is_ready(self) -> bool:
        return await answers(f"{self.url}/v1/models")

    @classmethod
    def absent(cls) -> str | None:
        """Why it cannot be run here; None if it can."""
        return None


class LlamaCpp(Engine):
    name = "llama.cpp"
    model = "SmolLM2-135M-Instruct"
    stopped = "worker_cut"
    ready_seconds = 30.0

    def serve(self) -> Sequence[str]:
        return [sys.executable, "-m", "deploy.llama_worker", str(llama_model()), str(self.port)]

    @classmethod
    def absent(cls) -> str | None:
        return None if llama_model() else "llama.cpp or its model is not installed: make demo-parts"


class OfDirectory(Engine):
    """One that `tests.engines.install` has set up."""

    ready_seconds = 300.0  # PyTorch alone takes many seconds to load

    def python(self) -> str:
        assert DIRECTORY is not None
        return str(Path(DIRECTORY, self.name, "bin", "python"))

    def model_path(self) -> str:
        assert DIRECTORY is not None
        return str(Path(DIRECTORY, "model"))

    def environment(self) -> dict[str, str]:
        return {
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "SGLANG_USE_CPU_ENGINE": "1",
            "VLLM_HOST_IP": "127.0.0.1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
        }


class Vllm(OfDirectory):
    name = "vllm"
    takes_request_id = True
    stopped = "worker_abort"

    def serve(self) -> Sequence[str]:
        server = [self.python(), "-m", "vllm.entrypoints.openai.api_server"]
        where = ["--host", "127.0.0.1", "--port", str(self.port)]
        model = ["--model", self.model_path(), "--served-model-name", self.model]
        small = "--load-format dummy --dtype float32 --enforce-eager --max-model-len 4096"
        cache = "--enable-prefix-caching --block-size 32 --enable-prompt-tokens-details"
        return [
            *server,
            *where,
            *model,
            *small.split(),
            *cache.split(),
            "--enable-request-id-headers",
        ]


class Sglang(OfDirectory):
    name = "sglang"

    def serve(self) -> Sequence[str]:
        server = [self.python(), "-m", "sglang.launch_server"]
        where = ["--host", "127.0.0.1", "--port", str(self.port)]
        model = ["--model-path", self.model_path(), "--served-model-name", self.model]
        small = (
            "--load-format dummy --dtype float32 --mem-fraction-static 0.1 --max-total-tokens 8192"
        )
        cpu = "--device cpu --attention-backend torch_native --sampling-backend pytorch"
        less = "--disable-overlap-schedule --disable-cuda-graph --grammar-backend none"
        told = "--enable-metrics --enable-cache-report --skip-server-warmup"
        return [
            *server,
            *where,
            *model,
            *small.split(),
            *cpu.split(),
            *less.split(),
            *told.split(),
        ]


class SglangLeg(Sglang):
    """One of a pair: `mode` is prefill or decode. Caches move over TCP."""

    def __init__(self, mode: str, bootstrap_port: int) -> None:
        super().__init__()
        self.mode = mode
        self.bootstrap_port = bootstrap_port

    def environment(self) -> dict[str, str]:
        assert DIRECTORY is not None
        return {
            **super().environment(),
            "LD_LIBRARY_PATH": str(Path(DIRECTORY, "cuda").resolve()),
            "MOONCAKE_PROTOCOL": "tcp",
            "SGLANG_HOST_IP": "127.0.0.1",
        }

    def serve(self) -> Sequence[str]:
        role = f"--disaggregation-mode {self.mode} --disaggregation-transfer-backend mooncake"
        more = "--disaggregation-decode-retraction-backup cpu_tensor"
        port = ["--disaggregation-bootstrap-port", str(self.bootstrap_port)]
        return [*super().serve(), *role.split(), *more.split(), *port]
