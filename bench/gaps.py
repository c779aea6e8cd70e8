"""What running answers feel while long prompts arrive, server by server, in turns.

    python bench/gaps.py --url ours=http://127.0.0.1:8000 --url llama.cpp=http://127.0.0.1:9101

Prompts are random token ids and answers are drawn, so it works with any vocabulary and with random
weights: `bench online --mixed` asks in words, and for more than a large model answers in minutes.
The numbers are the gaps between two chunks of the streams that run: alone, and from the first
prompt's arrival to the last one's answer.
"""

import argparse
import asyncio
import random
import statistics
import time

import orjson

from llamastream.bench.exchange import Exchange, build_request, connect
from llamastream.bench.openai import PATHS, read_timeline
from llamastream.bench.probe import ServerUrl, first_model, parse_server

FIRST_ID, LAST_ID = 300, 30_000  # beyond a Llama's control and byte tokens
ALONE_S = 8.0
POLL_S = 0.05


class Client:
    def __init__(self, server: ServerUrl, model: str) -> None:
        self._url = server.url._replace(path=server.url.path + PATHS["completions"])
        self._model = model

    async def ask(
        self, num_prompt_tokens: int, max_tokens: int
    ) -> tuple[asyncio.Transport, Exchange]:
        """A streamed answer that is on its way. Raises ServerFailed."""
        prompt = [random.randint(FIRST_ID, LAST_ID) for _ in range(num_prompt_tokens)]
        body = {"model": self._model, "prompt": prompt, "max_tokens": max_tokens, "stream": True}
        body |= {"temperature": 1.0, "top_p": 1.0, "ignore_eos": True}
        return await connect(self._url, build_request(self._url, {}, orjson.dumps(body)))


def times_of(exchange: Exchange) -> tuple[float, ...]:
    """Of the chunks with text so far. Raises ServerFailed where it was refused."""
    reply = exchange.reply()
    return () if reply is None else read_timeline(reply, partial=True).token_times_s


def gaps(streams: list[Exchange], start_s: float, end_s: float) -> list[float]:
    """Of all streams, in ms, those that touch the time between."""
    return sorted(
        1000 * (b - a)
        for times in map(times_of, streams)
        for a, b in zip(times, times[1:], strict=False)
        if b > start_s and a < end_s
    )


async def measure(server: ServerUrl, args: argparse.Namespace) -> None:
    client = Client(server, await first_model(server, None))
    running = [await client.ask(16, 2000) for _ in range(args.streams)]
    streams = [exchange for _, exchange in running]
    # Text is found only by decoding, so no event can announce it.
    while not all(len(times_of(stream)) > 1 for stream in streams):  # noqa: ASYNC110
        await asyncio.sleep(POLL_S)
    start_s = time.perf_counter()
    await asyncio.sleep(ALONE_S)
    middle_s = time.perf_counter()
    answered_s = []
    for _ in range(args.prompts):
        sent_s = time.perf_counter()
        _, exchange = await client.ask(args.prompt_tokens, 1)
        await exchange.closed
        answered_s.append(time.perf_counter() - sent_s)
        times_of(exchange)
    end_s = time.perf_counter()
    await asyncio.sleep(0.5)  # the gaps that were open are closed
    for transport, _ in running:
        transport.abort()
    alone, beside = gaps(streams, start_s, middle_s), gaps(streams, middle_s, end_s)
    p99 = beside[min(len(beside) - 1, int(0.99 * len(beside)))]
    print(
        f"{server.name:10} alone p50 {statistics.median(alone):7.0f} ms"
        f"   beside p50 {statistics.median(beside):7.0f}   p99 {p99:7.0f}"
        f"   longest {beside[-1]:7.0f}   ({len(beside)} gaps)"
        f"   prompt answered after {statistics.median(answered_s):6.1f} s",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", action="append", required=True, help="NAME=URL")
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--prompts", type=int, default=3)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    for server in [parse_server(url) for url in args.url] * args.rounds:
        asyncio.run(measure(server, args))


if __name__ == "__main__":
    main()
