"""What the cache on disk saves after a restart, and what it costs while it fills.

    python bench/disk_cache.py first-token --turns 20                 # the demo
    python bench/disk_cache.py first-token --turns 1 --past-tokens 2000 \\
        --model 7b-q4_k_m.gguf -- --chat-template llama2 --max-model-len 4096
    python bench/disk_cache.py load

`first-token`: a conversation, then one more turn, time and again with other words: by the server
that has it in memory, by one that was killed and started again, and by one that keeps nothing on
disk and computes all of it. `load`: stored answers by a server with the cache on, which is filling,
and by one with it off, in turns. Answers are greedy and of full length; what follows `--` are
options of `serve`. The last line is JSON.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from llamastream.settings import default_data_dir

START_LIMIT_S = 600.0
WORDS = "river stone light under every morning people carry water and sing of old roads".split()
OFF = ("--kv-disk-gib", "0")
MODEL = "bench"  # what it is called
Json = dict[str, Any]


class Server:
    """One with a folder of its own, but for the models, which can be killed and started again."""

    def __init__(self, model: str, folder: Path, options: tuple[str, ...]) -> None:
        self.folder = folder
        for name in ("models", "packed"):
            (default_data_dir() / name).mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(default_data_dir() / name)
        self._command = (
            *(sys.executable, "-m", "llamastream", "serve", "--model", model, "--port", "0"),
            *("--grpc-port", "0", "--data-dir", str(folder), "--speculation", "off", *options),
        )
        self.client = httpx.AsyncClient(timeout=None)

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(START_LIMIT_S):
            while (line := (await self._process.stdout.readline()).decode()) and "/v1" not in line:
                pass
        if not line:
            raise SystemExit("the server ended: try its command\n" + " ".join(self._command))
        self.client.base_url = httpx.URL(line.split()[-1])

    async def kill(self) -> None:
        self._process.kill()
        await self._process.wait()

    async def restart(self) -> None:
        """As after a crash, and warm: what the first answer of a process costs is not ours."""
        await self.kill()
        await self.start()
        await self.answer(input="Hello.", max_output_tokens=4, store=False)

    async def post(self, path: str, body: Json) -> Json:
        reply = await self.client.post(path, json=body)
        reply.raise_for_status()
        found: Json = reply.json()
        return found

    async def answer(self, **body: Any) -> "Answer":
        options = {"model": MODEL, "temperature": 0, "ignore_eos": True, "stream": True}
        began, arrivals, last = time.perf_counter(), [], {}
        async with self.client.stream("POST", "/responses", json=options | body) as reply:
            async for line in reply.aiter_lines():
                if line.startswith("data: {"):
                    last = json.loads(line[6:])
                    if last["type"] == "response.output_text.delta":
                        arrivals.append(time.perf_counter() - began)
        if "response" not in last or last["response"]["error"]:
            raise SystemExit(f"no answer: {last}")
        return Answer(arrivals, last["response"])

    def num_bytes(self) -> int:
        """Of blocks on disk."""
        files = [path.stat() for path in self.folder.glob("kv/*/*/*")]
        return sum({one.st_ino: one.st_size for one in files}.values())


class Answer(NamedTuple):
    arrivals_s: list[float]  # of its pieces, since the request
    response: Json

    @property
    def num_cached(self) -> int:
        return int(self.response["usage"]["input_tokens_details"]["cached_tokens"])


@asynccontextmanager
async def serving(model: str, options: tuple[str, ...]) -> AsyncIterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        server = Server(model, Path(folder), ("--served-model-name", MODEL, *options))
        await server.start()
        try:
            yield server
        finally:
            await server.kill()
            await server.client.aclose()


def text(seed: int, num_words: int = 20) -> str:
    """Other words for each seed, but of like length."""
    words = [WORDS[(seed * 5 + k * (seed % 7 + 1)) % len(WORDS)] for k in range(num_words)]
    return f"{seed:04} " + " ".join(words) + "."


async def talk(server: Server, turns: int, past_tokens: int) -> tuple[str, str]:
    """Have a conversation; its id, and that of its last item."""
    id = (await server.post("/conversations", {}))["id"]
    num_words = 20
    if past_tokens:
        body = {"model": MODEL, "messages": [{"role": "user", "content": text(0, 40)}]}
        counted = await server.post("/messages/count_tokens", body)
        num_words = past_tokens * 40 // counted["input_tokens"]
    for turn in range(turns):
        await server.answer(input=text(turn, num_words), conversation=id, max_output_tokens=48)
    items = (await server.client.get(f"/conversations/{id}/items?order=desc&limit=1")).json()
    return id, items["data"][0]["id"]


async def one_more(server: Server, at: tuple[str, str], seed: int) -> Answer:
    """The turn behind the conversation, by itself: none sees another's."""
    after = {"id": at[0], "after": at[1]}
    return await server.answer(input=text(seed), conversation=after, max_output_tokens=4)


async def first_token(arguments: argparse.Namespace) -> Json:
    found: dict[str, list[Answer]] = {"in memory": [], "restarted": []}
    rounds = range(1000, 1000 + arguments.rounds)
    async with serving(arguments.model, arguments.options) as server:
        at = await talk(server, arguments.turns, arguments.past_tokens)
        await one_more(server, at, 999)
        found["in memory"] = [await one_more(server, at, seed) for seed in rounds]
        for seed in rounds:
            await server.restart()
            found["restarted"].append(await one_more(server, at, 100 + seed))
    if arguments.computed_rounds:
        found["computed"] = []
        async with serving(arguments.model, (*arguments.options, *OFF)) as server:
            at = await talk(server, arguments.turns, arguments.past_tokens)
            for seed in rounds[: arguments.computed_rounds]:
                await server.restart()
                found["computed"].append(await one_more(server, at, 200 + seed))
    report: Json = {"input_tokens": found["restarted"][0].response["usage"]["input_tokens"]}
    for name, answers in found.items():
        times = [answer.arrivals_s[0] for answer in answers]
        report[name] = {
            "ttft_ms": round(statistics.median(times) * 1000, 1),
            "all_ms": [round(t * 1000, 1) for t in times],
            "cached_tokens": sorted({answer.num_cached for answer in answers}),
        }
    base = report["in memory"]["ttft_ms"]
    report["restarted / in memory"] = round(report["restarted"]["ttft_ms"] / base, 2)
    return report


async def load(arguments: argparse.Namespace) -> Json:
    report: Json = {}
    async with (
        serving(arguments.model, arguments.options) as on,
        serving(arguments.model, (*arguments.options, *OFF)) as off,
    ):
        seed = 0
        for server in (on, off):
            await server.answer(input=text(seed), max_output_tokens=32)
        for num_streams in arguments.streams:
            speeds: dict[str, list[float]] = {"on": [], "off": []}
            gaps: dict[str, list[float]] = {"on": [], "off": []}
            before, num_tokens = on.num_bytes(), 0
            for number in range(arguments.rounds):
                turns = [("on", on), ("off", off)]
                for name, server in turns if number % 2 else reversed(turns):
                    seed += num_streams
                    began = time.perf_counter()
                    asked = [
                        server.answer(input=text(seed + k, 50), max_output_tokens=arguments.tokens)
                        for k in range(num_streams)
                    ]
                    answers = await asyncio.gather(*asked)
                    took_s = time.perf_counter() - began
                    usages = [answer.response["usage"] for answer in answers]
                    speeds[name].append(sum(u["output_tokens"] for u in usages) / took_s)
                    for times in (answer.arrivals_s for answer in answers):
                        gaps[name] += [b - a for a, b in zip(times, times[1:], strict=False)]
                    if name == "on":
                        num_tokens += sum(u["total_tokens"] for u in usages)
            await asyncio.sleep(1)  # what waits to be written
            figures = {name: statistics.median(found) for name, found in speeds.items()}
            p99 = {name: statistics.quantiles(found, n=100)[98] for name, found in gaps.items()}
            report[f"{num_streams} streams"] = {
                "tokens_per_s": {name: round(value, 1) for name, value in figures.items()},
                "on / off": round(figures["on"] / figures["off"], 3),
                "p99_between_tokens_ms": {k: round(v * 1000, 1) for k, v in p99.items()},
                "disk_bytes_per_token": round((on.num_bytes() - before) / num_tokens),
            }
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description="What the cache on disk saves, and costs.")
    parser.add_argument("what", choices=("first-token", "load"))
    parser.add_argument("--model", default="demo")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--past-tokens", type=int, default=0, help="in each turn, about")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--computed-rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=128)
    own: list[str] = sys.argv[1:]
    options: tuple[str, ...] = ()
    if "--" in own:
        own, options = own[: own.index("--")], tuple(own[own.index("--") + 1 :])
    arguments = parser.parse_args(own)
    arguments.options = options
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    report = asyncio.run((first_token if arguments.what == "first-token" else load)(arguments))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
