"""The article's method and ours, side by side on the same model file, in turns.

    llamastream serve --model demo.gguf --port 8000
    python bench/article.py --gguf demo.gguf --base-url http://127.0.0.1:8000

The article's Executor runs transformers over the whole sequence again for each token. Here its
loop runs without Jina around it, which is kind to it. Several streams take turns, token by token,
as its event loop would have them. Ours is read through HTTP. Both draw greedily and go on past the
end of the answer, so that all make the same number of tokens. The last line is JSON.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPT = (
    "<|im_start|>user\nTell me about the history of {}, and how people lived there in the past."
    "<|im_end|>\n<|im_start|>assistant\n"
)
PLACES = ("Rome", "Paris", "Kyoto", "Cairo", "Lima", "Delhi", "Oslo", "Athens")


class Result(NamedTuple):
    """One run of some streams."""

    tokens_per_s: float  # all streams together
    ttft_s: float  # time to first token, median of the streams


def result(arrivals_s: list[list[float]]) -> Result:
    """From the times, since the start, at which each stream's tokens came."""
    num_tokens = sum(map(len, arrivals_s))
    last_s = max(times[-1] for times in arrivals_s)
    return Result(num_tokens / last_s, statistics.median(times[0] for times in arrivals_s))


class Article:
    """What the article's Executor does per token."""

    def __init__(self, gguf: Path, dtype: str) -> None:
        where = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
        self._tokenizer = AutoTokenizer.from_pretrained(**where)
        model = AutoModelForCausalLM.from_pretrained(**where, dtype=getattr(torch, dtype))
        self._model = model.eval()

    def stream(self, prompt: str, max_tokens: int) -> Iterator[str]:
        ids = self._tokenizer(prompt, return_tensors="pt").input_ids
        for _ in range(max_tokens):
            with torch.inference_mode():
                logits = self._model(ids, use_cache=False, logits_to_keep=1).logits
            ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], dim=1)
            yield self._tokenizer.decode(ids[0, -1:])

    def run(self, num_streams: int, max_tokens: int) -> Result:
        start_s = time.perf_counter()
        streams = [self.stream(prompt, max_tokens) for prompt in prompts(num_streams)]
        arrivals_s: list[list[float]] = [[] for _ in streams]
        for _ in range(max_tokens):
            for stream, times in zip(streams, arrivals_s, strict=True):
                next(stream)
                times.append(time.perf_counter() - start_s)
        return result(arrivals_s)


class Ours:
    """A client of `/stream`."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url

    def run(self, num_streams: int, max_tokens: int) -> Result:
        return asyncio.run(self._run(num_streams, max_tokens))

    async def _run(self, num_streams: int, max_tokens: int) -> Result:
        async with httpx.AsyncClient(base_url=self._base_url, timeout=None) as client:
            start_s = time.perf_counter()
            streams = (self._read(client, p, max_tokens, start_s) for p in prompts(num_streams))
            return result(await asyncio.gather(*streams))

    async def _read(
        self, client: httpx.AsyncClient, prompt: str, max_tokens: int, start_s: float
    ) -> list[float]:
        document = {"prompt": prompt, "max_tokens": max_tokens, "ignore_eos": True}
        arrivals_s = []
        async with client.stream("POST", "/stream", json=document) as response:
            response.raise_for_status()
            async for line in response.aiter_lines():
                if line.startswith("data: "):
                    assert "error" not in json.loads(line[6:]), line
                    arrivals_s.append(time.perf_counter() - start_s)
        return arrivals_s


def prompts(num_streams: int) -> list[str]:
    return [PROMPT.format(PLACES[i % len(PLACES)]) for i in range(num_streams)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gguf", type=Path, required=True, help="the model file, for transformers")
    parser.add_argument("--base-url", required=True, help="our server, with the same file")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    sides: dict[str, Any] = {
        "article": Article(options.gguf, options.dtype),
        "llamastream": Ours(options.base_url),
    }
    runs: dict[str, list[Result]] = {}
    for side in sides.values():
        side.run(1, 4)  # warms up
    for _ in range(options.rounds):
        for num_streams in options.streams:
            for name, side in sides.items():
                run = side.run(num_streams, options.tokens)
                print(f"{name}, {num_streams}: {run.tokens_per_s:.1f} tokens/s", flush=True)
                runs.setdefault(f"{name}, {num_streams}", []).append(run)
    print(f"{'who, streams':16} {'tokens/s':>10} {'first token, ms':>16}")
    medians = {
        key: Result(*(statistics.median(column) for column in zip(*values, strict=True)))
        for key, values in runs.items()
    }
    for key, median in medians.items():
        print(f"{key:16} {median.tokens_per_s:10.1f} {median.ttft_s * 1000:16.0f}")
    print(json.dumps({"tokens": options.tokens, "dtype": options.dtype, "runs": runs}))


if __name__ == "__main__":
    main()
