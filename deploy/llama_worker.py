"""`python -m deploy.llama_worker MODEL PORT`: the real llama.cpp server as a worker, on one thread."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from xllamacpp import CommonParams, Server


def main(model: str, port: str, host: str = "127.0.0.1") -> None:
    params = CommonParams()
    params.model.path = model
    params.model_alias = {Path(model).name.removesuffix(".gguf").rpartition(".")[0]}
    params.hostnames = [host]
    params.port = int(port)
    params.n_parallel = 2
    params.n_ctx = 4096  # of all parallel requests together
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    params.endpoint_metrics = True
    server = Server(params)  # answers from threads of its own
    print(server.listening_address, flush=True)
    signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
