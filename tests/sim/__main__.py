"""`python -m tests.sim`: start one simulated worker and serve until SIGINT or SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Sequence
from typing import get_args

import msgspec
import uvloop

from tests.sim.call import WorkerConfig
from tests.sim.engine import EngineConfig
from tests.sim.faults import Fault, FaultError, parse_fault
from tests.sim.pairing import Part
from tests.sim.worker import Worker


def _fault(text: str) -> Fault:
    try:
        return parse_fault(text)
    except FaultError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def parser() -> argparse.ArgumentParser:
    engine, config = EngineConfig(), WorkerConfig()
    p = argparse.ArgumentParser("python -m tests.sim", description=__doc__)
    p.add_argument("--host", default="127.0.0.1")
    p.add_argument("--port", type=int, default=30005, help="0: any free one (printed)")
    p.add_argument("--control-port", type=int, help="/_sim/ on a port of its own as well")
    p.add_argument("--model", default=config.model)
    p.add_argument("--also-serves", action="append", default=[], help="one more name of it")
    p.add_argument("--adapter", action="append", default=[], help="a LoRA adapter of it")
    p.add_argument("--dp-size", type=int, default=config.dp_size, help="data-parallel ranks")
    p.add_argument("--seed", type=int, default=engine.seed, help="of the words generated")
    p.add_argument("--block-tokens", type=int, default=engine.block_tokens)
    p.add_argument("--cache-blocks", type=int, default=engine.cache_blocks)
    p.add_argument("--prefill-tokens-per-second", type=float, default=0.0, help="0: at once")
    p.add_argument("--prefill-base-seconds", type=float, default=0.0)
    p.add_argument("--token-seconds", type=float, default=0.0, help="between output tokens")
    p.add_argument("--default-max-tokens", type=int, default=engine.default_max_tokens)
    p.add_argument("--max-queued-requests", type=int, help="503 above it")
    p.add_argument("--keep-alive-seconds", type=float, default=config.keep_alive_seconds)
    p.add_argument("--health-seconds", type=float, default=0.0, help="how long /health takes")
    p.add_argument("--enable-cache-report", action="store_true", help="cached_tokens in usage")
    p.add_argument("--disable-metrics", action="store_true", help="no queue_time in meta_info")
    p.add_argument("--incremental-streaming-output", action="store_true")
    p.add_argument("--no-get-load", action="store_true", help="404 as newer versions say")
    p.add_argument("--api-key")
    p.add_argument("--part", choices=get_args(Part), help="half of an engine; see pairing.py")
    p.add_argument(
        "--enable-request-id-headers",
        action="store_true",
        help="use and echo X-Request-Id as vLLM does",
    )
    p.add_argument(
        "--fault", type=_fault, action="append", default=[], help="see tests/sim/faults.py"
    )
    return p


def config_from(args: argparse.Namespace) -> WorkerConfig:
    return WorkerConfig(
        model=args.model,
        also_serves=tuple(args.also_serves),
        adapters=tuple(args.adapter),
        dp_size=args.dp_size,
        engine=EngineConfig(
            seed=args.seed,
            block_tokens=args.block_tokens,
            cache_blocks=args.cache_blocks,
            prefill_tokens_per_second=args.prefill_tokens_per_second,
            prefill_base_seconds=args.prefill_base_seconds,
            token_seconds=args.token_seconds,
            default_max_tokens=args.default_max_tokens,
            max_queued_requests=args.max_queued_requests,
        ),
        faults=tuple(args.fault),
        keep_alive_seconds=args.keep_alive_seconds,
        health_seconds=args.health_seconds,
        cache_report=args.enable_cache_report,
        metrics=not args.disable_metrics,
        incremental_output=args.incremental_streaming_output,
        get_load=not args.no_get_load,
        api_key=args.api_key,
        request_id_header=args.enable_request_id_headers,
        part=args.part,
    )


async def serve(args: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    worker = Worker(config_from(args))
    ports = await worker.start(args.host, args.port, args.control_port)
    print(msgspec.json.encode({"listening": args.host, **ports}).decode(), flush=True)
    await stop.wait()
    await worker.close()


def main(argv: Sequence[str] | None = None) -> None:
    uvloop.run(serve(parser().parse_args(argv)))


if __name__ == "__main__":
    main()
