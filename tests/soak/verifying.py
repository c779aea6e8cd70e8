"""Stored answers of every kind, some through kill -9, drawn again by a server that works otherwise.

One token in some of them is then changed, and has to be found.
"""

import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from llamastream.app import ARITHMETIC
from llamastream.config import EngineConfig
from llamastream.engine.async_engine import AsyncEngine
from llamastream.engine.cpu_runner import CpuRunner
from llamastream.engine.llm_engine import LLMEngine
from llamastream.generation import Answers, Verifying
from llamastream.generation.receipts import Computation
from llamastream.models import open_checkpoint
from llamastream.models.demo import demo_file
from llamastream.settings import default_data_dir
from llamastream.store.database import sqlite_url
from llamastream.store.store import Store
from llamastream.text import PromptBuilder, Tokenizer
from tests.api.test_verify import change_ids
from tests.doubles.answer_kinds import OF_CHATS, OF_RESPONSES, chat_body, response_body
from tests.doubles.disk import NotHere
from tests.soak.rounds import OPENINGS, Figures
from tests.soak.server import Server

MODEL = "SmolLM2-135M-Instruct"
RESPONSES, CHATS = "/v1/responses", "/v1/chat/completions"
KILLED_EVERY, NUM_KILLED = 25, 4  # answers between two kills, and in progress at each
OTHER_KERNELS_SHARE = 0.03  # of all, for portable ones are slow
CHANGED_SHARE = 0.05
OTHERWISE = ("--speculation", "off", "--threads", "1", "--max-num-batched-tokens", "160")

Timed = Counter[str]  # seconds and tokens


class Making:
    """Asks for answers one after the other."""

    def __init__(self, client: httpx.AsyncClient, model: str, rng: random.Random) -> None:
        self._client, self._model, self._rng = client, model, rng
        self._last: str | None = None
        self.made: dict[str, str] = {}  # path by id
        self.timed = Timed()

    def _fields(self, kind: dict[str, Any]) -> dict[str, Any]:
        said = f"{self._rng.choice(OPENINGS)} {self._rng.randrange(1000)}"
        seed = {"seed": self._rng.getrandbits(53)} if "seed" in kind else {}
        return {"model": self._model, "said": said, **kind, **seed}

    async def one(self) -> str:
        """A kind by chance; of responses every third goes on from the one before."""
        name = self._rng.choice([*OF_RESPONSES, *OF_CHATS])
        if name in OF_CHATS:
            path, body = CHATS, chat_body(**self._fields(OF_CHATS[name]))
        else:
            path, body = RESPONSES, response_body(**self._fields(OF_RESPONSES[name]))
            if self._last is not None and self._rng.random() < 1 / 3:
                body["previous_response_id"] = self._last
        began = time.perf_counter()
        answer = await self._client.post(path, json=body)
        answer.raise_for_status()
        self.timed["s"] += time.perf_counter() - began  # type: ignore[assignment]
        usage = answer.json()["usage"]
        self.timed["tokens"] += usage.get("output_tokens", usage.get("completion_tokens"))
        id = str(answer.json()["id"])
        self._last = id if path == RESPONSES and "previous_response_id" not in body else None
        self.made[id] = path
        return name

    async def in_progress(self) -> str:
        """One that goes on by itself."""
        kind = OF_RESPONSES[self._rng.choice(("greedy", "drawn", "penalties", "pattern"))]
        body = response_body(**self._fields(kind)) | {"background": True, "max_output_tokens": 400}
        if "guided_regex" not in body:
            body["ignore_eos"] = True
        id = str((await self._client.post(RESPONSES, json=body)).json()["id"])
        self.made[id] = RESPONSES
        return id

    async def end_of(self, id: str) -> None:
        async with self._client.stream("GET", f"{RESPONSES}/{id}?stream=true") as answer:
            async for _ in answer.aiter_lines():
                pass


async def verify(rounds: int, *, seed: int, folder: Path, options: tuple[str, ...] = ()) -> Figures:
    """A round is an answer."""
    model = demo_file(default_data_dir() / "models")
    if not model.is_file():
        raise NotHere("the demo model was not fetched")
    rng, figures = random.Random(seed), Figures()
    async with (
        Server(folder, options, str(model)) as server,
        httpx.AsyncClient(base_url=server.url, timeout=600) as client,
    ):
        name = (await client.get("/v1/models")).json()["data"][0]["id"]
        making = Making(client, name, rng)
        while len(making.made) < rounds:
            figures.events[f"of {await making.one()}".replace(" ", "_")] += 1
            if len(making.made) % KILLED_EVERY == 0:
                ids = [await making.in_progress() for _ in range(NUM_KILLED)]
                await server.stop(signal.SIGKILL)
                figures.events["kills"] += 1
                await server.start()
                for id in ids:
                    await making.end_of(id)
                print(f"{len(making.made)} answers of {rounds}", file=sys.stderr, flush=True)
        figures.resumed = server.num_resumed()
        await server.stop(signal.SIGTERM)
        server.options = (*options, *OTHERWISE)
        await server.start()
        timed = await _verify_all(client, making.made, figures)
        await server.stop(signal.SIGTERM)
    figures.rounds, figures.tokens = len(making.made), int(timed["tokens"])
    figures.notes += [
        f"seconds per 1,000 tokens: {1000 * one['s'] / one['tokens']:.2f} {what}"
        for what, one in (("generating", making.timed), ("verifying", timed))
    ]
    await _verify_elsewhere(model, folder, making.made, rng, figures)
    return figures


async def _verify_all(client: httpx.AsyncClient, made: dict[str, str], figures: Figures) -> Timed:
    timed = Timed()
    for number, (id, path) in enumerate(made.items()):
        if number % KILLED_EVERY == 0:
            print(f"{number} verified of {len(made)}", file=sys.stderr, flush=True)
        began = time.perf_counter()
        answer = await client.post(f"{path}/{id}/verify")
        timed["s"] += time.perf_counter() - began  # type: ignore[assignment]
        found = answer.json()
        if answer.status_code != 200 or not found["is_equal"]:
            figures.problems.append(f"{id}: {answer.text[:300]}")
            continue
        timed["tokens"] += found["num_equal_tokens"]
    return timed


async def _verify_elsewhere(
    model: Path, folder: Path, made: dict[str, str], rng: random.Random, figures: Figures
) -> None:
    """In this process, on other kernels, without a server; and some with a token changed."""
    checkpoint = open_checkpoint(str(model), cache_dir=folder / "models")
    config = EngineConfig(max_num_seqs=4, kv_cache_bytes=2**28, isa="portable")

    def load() -> LLMEngine:
        runner = CpuRunner.load(checkpoint.config, config, checkpoint.stored_tensors)
        return LLMEngine(runner, config)

    tokenizer = Tokenizer(checkpoint.tokenizer)
    prompts = PromptBuilder.from_config(tokenizer, None)
    model_id = Computation(checkpoint.content_digest(), "int8", str(ARITHMETIC)).model_id
    answers = Answers(AsyncEngine(load), tokenizer, prompts, model_name="m", model_id=model_id)
    await answers.start()
    try:
        await answers.dispatcher.engine.ready()
        for share, is_changed in ((OTHER_KERNELS_SHARE, False), (CHANGED_SHARE, True)):
            chosen = rng.sample(sorted(made), max(int(len(made) * share), 1))
            for number, id in enumerate(chosen):
                what = "changed" if is_changed else "other kernels"
                print(f"{what}: {number} verified of {len(chosen)}", file=sys.stderr, flush=True)
                place = _change(folder, id, rng) if is_changed else None
                async with await Store.open(sqlite_url(folder), access="read") as store:
                    found = await Verifying(answers, store).begin(id, scope="")
                    await found.generation.over()
                figures.events["changed" if is_changed else "portable"] += 1
                where = found.difference and found.difference.position
                if found.generation.error is not None or where != place:
                    figures.problems.append(f"{id}: {where}, and changed was {place}")
    finally:
        await answers.stop()


def _change(folder: Path, id: str, rng: random.Random) -> int:
    """Another token somewhere; where that is."""
    places: list[int] = []

    def change(ids: list[int]) -> list[int]:
        places.append(place := rng.randrange(len(ids)))
        return [*ids[:place], ids[place] ^ 1, *ids[place + 1 :]]

    change_ids(folder, id, change)
    return places[0]
