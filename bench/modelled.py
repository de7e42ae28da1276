"""Modelled workers behind real sockets, all in one process: `python -m bench.modelled PORT...`.

They speak as much of SGLang's HTTP as routers ask for, and serve `/generate` streams with the times
and the prefix cache of `router.lab.model`, `--scale` times as fast. A prompt says by itself what it
shares: each 2 KiB begin with an id (`prompt_text`), so that reading it costs the model nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final

import msgspec
import uvloop

from router.core.blocks import LANDMARK_BYTES
from router.core.facts import RequestFacts
from router.lab.model import ModelledWorker, WorkerModel
from router.lab.traces import BLOCK_TOKENS, Job

ID_DIGITS: Final = 16
FILLER: Final = "one block of a prompt, which nobody reads. " * 64


class Params(msgspec.Struct):
    max_new_tokens: int = 1


class Generate(msgspec.Struct):
    text: str
    sampling_params: Params


def prompt_text(ids: Sequence[int], input_tokens: int) -> str:
    """A text of about `input_tokens` tokens (four bytes each) that shares what `ids` share."""
    blocks = [f"{block:0{ID_DIGITS}x}{FILLER}"[:LANDMARK_BYTES] for block in ids]
    return "".join(blocks)[: max(input_tokens * 4, ID_DIGITS)]


def job_of(asked: Generate) -> Job:
    """What a prompt says of itself."""
    text = asked.text
    ids = [
        int(text[at : at + ID_DIGITS], 16)
        for at in range(0, len(text), LANDMARK_BYTES)
        if len(text) >= at + ID_DIGITS
    ]
    tokens = -(-len(text) // 4)
    return Job(0.0, RequestFacts(route=""), ids, tokens, asked.sampling_params.max_new_tokens)


class Server:
    """One worker on one port."""

    def __init__(self, name: str, model: WorkerModel) -> None:
        self.name = name
        self._model = ModelledWorker(model)
        self._decode = msgspec.json.Decoder(Generate).decode

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lines = head.split(b"\r\n")
                length = next(
                    (int(n.split(b":")[1]) for n in lines if n.lower().startswith(b"content-len")),
                    0,
                )
                body = await reader.readexactly(length)
                if lines[0].startswith(b"POST /generate"):
                    await self._generate(self._decode(body), writer)
                else:
                    self._tell(writer)
        writer.close()

    def _tell(self, writer: asyncio.StreamWriter) -> None:
        """Health, model and server information in one."""
        said = b'{"model_path":"m","served_model_name":"m","is_generation":true}'
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        writer.write(head % len(said) + said)

    async def _generate(self, asked: Generate, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        job = job_of(asked)
        served = self._model.serve(job, loop.time())
        await asyncio.sleep(served.first_token_at - loop.time())
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
            b"\r\n" + chunk(b'data: {"text":"a"}\n\n')
        )
        await writer.drain()
        await asyncio.sleep(served.ended_at - loop.time())
        said = {
            "text": "ab",
            "meta_info": {
                "prompt_tokens": job.input_tokens,
                "completion_tokens": job.output_tokens,
                "cached_tokens": served.cached_tokens,
                "finish_reason": {"type": "length", "length": job.output_tokens},
                "worker": self.name,
            },
        }
        last = b"data: %b\n\ndata: [DONE]\n\n" % msgspec.json.encode(said)
        writer.write(chunk(last) + b"0\r\n\r\n")
        await writer.drain()


def chunk(payload: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload)


async def main(argv: Sequence[str] | None = None) -> None:
    p = argparse.ArgumentParser("python -m bench.modelled", description=__doc__)
    p.add_argument("ports", type=int, nargs="+")
    p.add_argument("--scale", type=float, default=1.0)
    p.add_argument("--prefill-rate", type=float, default=WorkerModel().prefill_tokens_per_second)
    p.add_argument("--token-ms", type=float, default=20.0)
    p.add_argument("--cache-blocks", type=int, default=3000)
    args = p.parse_args(argv)
    model = WorkerModel(
        prefill_tokens_per_second=args.prefill_rate * args.scale,
        token_seconds=args.token_ms / 1000 / args.scale,
        cache_tokens=args.cache_blocks * BLOCK_TOKENS,
    )
    for number, port in enumerate(args.ports):
        await asyncio.start_server(Server(str(number), model).serve, "127.0.0.1", port)
    print("listening", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
