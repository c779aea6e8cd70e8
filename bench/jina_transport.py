"""Messages per second of scripted streams through our gRPC server and through a Jina Deployment.

    python bench/jina_transport.py --jina-python .venv-jina/bin/python

No model: both sides make a document per token as fast as they can, so that the transport alone is
measured. The same client reads both, in turns; it costs next to nothing, since client and server
share the machine. The last line is JSON.
"""

import argparse
import asyncio
import contextlib
import json
import socket
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import uvloop
from http2_reader import read_streams

from llamastream.errors import ChatError
from llamastream.generation import End, Generation, NewAnswer
from llamastream.generation.choice import TextRules
from llamastream.generation.generation import Details
from llamastream.jina import wire
from llamastream.jina.grpc_server import serve_grpc
from llamastream.jina.service import StreamService
from llamastream.records import Status
from llamastream.types import ChatRequest, Usage

STREAM_DOC = "/jina.JinaSingleDocumentRequestRPC/stream_doc"
RULES = TextRules((), frozenset(), False, True, False)
RIVAL = Path(__file__).parent / "jina_rival.py"


class Scripted:
    """Answers of one delta per turn of the loop; their own keeper."""

    def __init__(self) -> None:
        self._playing: set[asyncio.Task[None]] = set()

    def is_ready(self) -> bool:
        return True

    async def open(self, request: ChatRequest, new: NewAnswer) -> Generation:
        details = Details(new.wire, RULES, False, 0, "m", None)
        generation = Generation(new.id, details, [], self, created_at=0.0)
        assert request.sampling.max_tokens is not None
        playing = asyncio.create_task(self._play(generation, request.sampling.max_tokens))
        self._playing.add(playing)
        playing.add_done_callback(self._playing.discard)
        return generation

    async def _play(self, generation: Generation, max_tokens: int) -> None:
        for number in range(max_tokens):
            await asyncio.sleep(0)
            generation.log.append(0, " token", number)
            generation.publish(number + 1)
        generation.finish(End(Status.COMPLETED, Usage(1, 0, max_tokens), 0.0))

    def drawn(self, generations: Sequence[Generation]) -> None: ...
    def ended(self, generation: Generation) -> None: ...
    def failed(self, generation: Generation, error: ChatError) -> None: ...
    def readers_changed(self, generation: Generation, change: int) -> None: ...


async def serve_ours(port: int) -> None:
    streams = StreamService(Scripted(), authorize=lambda _: "")  # type: ignore[arg-type]
    server = await serve_grpc(streams, port=port)
    print("READY", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)


@contextlib.contextmanager
def running(*command: str | Path) -> Iterator[None]:
    """A server from its READY until its stdin is closed."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if not any(line.startswith("READY") for line in process.stdout):
            raise SystemExit(f"{command} did not start")
        yield
        process.stdin.close()


def load(port: int, num_streams: int, max_tokens: int) -> float:
    """Messages per second of `num_streams` at once. Checks that each stream was whole."""
    call = wire.SingleDocumentRequest()
    call.header.exec_endpoint = "/stream"
    wire.set_fields(call.document, {"prompt": "x", "max_tokens": max_tokens, "id": "0" * 32})
    reading = read_streams(port, STREAM_DOC, call.SerializeToString(), num_streams)
    assert reading.num_messages == [max_tokens] * num_streams, "a stream was not whole"
    return sum(reading.num_messages) / reading.elapsed_s


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def measure(options: argparse.Namespace) -> dict[str, list[float]]:
    ports = {name: free_port() for name in ("llamastream", "jina, gateway", "jina, direct")}
    rates: dict[str, list[float]] = {name: [] for name in ports}
    with contextlib.ExitStack() as servers:
        for name, port in ports.items():
            ours = (sys.executable, __file__, "--serve", str(port))
            theirs = (options.jina_python, RIVAL, str(port), name.removeprefix("jina, "))
            servers.enter_context(running(*(ours if name == "llamastream" else theirs)))
        for round_number in range(options.rounds + 1):
            for name, port in ports.items():
                rate = load(port, options.streams, options.tokens)
                if round_number > 0:  # the first warms up
                    rates[name].append(rate)
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jina-python", default=".venv-jina/bin/python")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", type=int, metavar="PORT", help="be our server (for itself)")
    options = parser.parse_args()
    if options.serve is not None:
        uvloop.run(serve_ours(options.serve))
        return
    rates = measure(options)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, median in medians.items():
        share = medians["llamastream"] / median
        print(f"{name:14} {median:9,.0f} messages/s   ours / this: {share:5.1f}")
    print(json.dumps({"streams": options.streams, "tokens": options.tokens, "rates": rates}))


if __name__ == "__main__":
    main()
