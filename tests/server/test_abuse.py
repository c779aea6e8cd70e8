"""A thousand requests of all kinds at once: whatever some clients do, the others get their answers
and nothing stays behind. Issue 2, "Must show" 6; the same crowd can be let loose on a real engine.
"""

import asyncio
import gc
import os
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from llamastream.messages import GenerationRequest
from llamastream.service import Stream
from tests.doubles.engine import FakeEngine
from tests.doubles.server import running_server
from tests.doubles.service import make_service
from tests.doubles.tokenizer import IM_END
from tests.doubles.waiting import until
from tests.server.raw import RawClient
from tests.server.sse import chat_body, content_of, events

CHAT = "/v1/chat/completions"
BAD_BODIES = (
    b"",
    b"{",
    b"\xff",
    b'{"model":"demo","messages":[]}',
    b'{"model":"demo","messages":[{"role":"user","content":"x"}],"temperature":NaN}',
    b'{"model":"demo","messages":[{"role":"user","content":"x"}],"n":1000}',
    b'{"model":"demo","messages":[{"role":"user","content":"x"}],"max_tokens":99999}',
)
NUM_REQUESTS = 1000
NUM_AT_ONCE = 64

Act = Callable[["Crowd", random.Random], Awaitable[None]]


class Crowd:
    """Clients of one server. `answers` maps a question to the only right answer."""

    def __init__(self, server: str, answer: Callable[[str, int], str]) -> None:
        self.server = server
        self.answer = answer
        self.seen: Counter[str] = Counter()

    async def rush(self, num_requests: int, seed: int) -> None:
        """Send requests of random kinds, NUM_AT_ONCE at the same time."""
        rng = random.Random(seed)
        gate = asyncio.Semaphore(NUM_AT_ONCE)

        async def one(act: Act, dice: random.Random) -> None:
            async with gate:
                await act(self, dice)
                self.seen[act.__name__] += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(num_requests):
                group.create_task(one(rng.choice(ACTS), random.Random(rng.random())))


def _question(dice: random.Random) -> tuple[dict[str, Any], str, int]:
    text = f"question {dice.randrange(10**9)}"
    max_tokens = dice.choice([1, 2, 7, 30, 60])
    body = chat_body(text, stream=True, max_tokens=max_tokens, temperature=0)
    return body, text, max_tokens


async def read_to_the_end(crowd: Crowd, dice: random.Random) -> None:
    body, text, max_tokens = _question(dice)
    async with RawClient(crowd.server) as raw:
        raw.post(CHAT, body)
        seen = (await raw.read_all()).decode()
    data = "".join(seen.partition("\r\n\r\n")[2].split("\r\n")[1::2])
    assert content_of(events(data)) == crowd.answer(text, max_tokens)


async def read_slowly(crowd: Crowd, dice: random.Random) -> None:
    """A byte at a time at first, and with pauses in which others have their turns."""
    body, text, max_tokens = _question(dice)
    async with RawClient(crowd.server) as raw:
        raw.post(CHAT, body)
        await raw.read_slowly(num_reads=dice.randrange(100))
        seen = (await raw.read_all()).decode()
    data = "".join(seen.partition("\r\n\r\n")[2].split("\r\n")[1::2])
    assert content_of(events(data)) == crowd.answer(text, max_tokens)


async def ask_for_the_whole(crowd: Crowd, dice: random.Random) -> None:
    body, text, max_tokens = _question(dice)
    async with httpx.AsyncClient(base_url=crowd.server, timeout=60) as client:
        response = await client.post(CHAT, json=body | {"stream": False})
    answer = response.json()["choices"][0]["message"]["content"]
    assert answer == crowd.answer(text, max_tokens)


async def leave_at_once(crowd: Crowd, dice: random.Random) -> None:
    await _break_off(crowd, dice, b"")


async def leave_after_the_headers(crowd: Crowd, dice: random.Random) -> None:
    await _break_off(crowd, dice, b"\r\n\r\n")


async def leave_in_the_middle(crowd: Crowd, dice: random.Random) -> None:
    await _break_off(crowd, dice, b"data: ")


async def send_a_bad_body(crowd: Crowd, dice: random.Random) -> None:
    async with RawClient(crowd.server) as raw:
        raw.post(CHAT, dice.choice(BAD_BODIES))
        assert b'{"error":{"message":' in await raw.read_until(b"}}")


async def send_half_a_body(crowd: Crowd, dice: random.Random) -> None:
    async with RawClient(crowd.server) as raw:
        raw.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{")
        raw.reset() if dice.random() < 0.5 else raw.leave()


async def _break_off(crowd: Crowd, dice: random.Random, after: bytes) -> None:
    body, _, _ = _question(dice)
    body |= {"stream": dice.random() < 0.8 or after != b"", "n": dice.choice([1, 1, 3])}
    async with RawClient(crowd.server) as raw:
        raw.post(CHAT, body)
        await raw.read_until(after)
        raw.reset() if dice.random() < 0.5 else raw.leave()


ACTS: list[Act] = [
    read_to_the_end,
    read_slowly,
    ask_for_the_whole,
    leave_at_once,
    leave_after_the_headers,
    leave_in_the_middle,
    send_a_bad_body,
    send_half_a_body,
]


def echo(request: GenerationRequest) -> list[int]:
    """The script's answer is made of the question, so that mixed-up streams are seen."""
    prompt = bytes(i for i in request.prompt_ids if i < 256).decode()
    question = prompt.partition("user\n")[2].partition("\n")[0]
    return [*f"Answer to {question}".encode(), IM_END]


def echoed(question: str, max_tokens: int) -> str:
    return f"Answer to {question}"[:max_tokens]


def num_open_files() -> int:
    return len(os.listdir("/dev/fd"))


def num_memory_blocks() -> int:
    """What Python objects hold now."""
    gc.collect()
    return sys.getallocatedblocks()


def streams_alive() -> list[object]:
    return [thing for thing in gc.get_objects() if type(thing) is Stream]


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # sockets that were broken off
async def test_a_thousand_requests_leave_nothing_behind() -> None:
    engine = FakeEngine(echo)
    service = make_service(engine)
    own_tasks = asyncio.all_tasks()
    async with running_server(service) as server:
        crowd = Crowd(server, echoed)
        idle_tasks, idle_files = asyncio.all_tasks(), num_open_files()

        async def rush(num_requests: int, seed: int) -> int:
            await crowd.rush(num_requests, seed)
            await until(lambda: engine.num_alive == 0)
            await until(lambda: asyncio.all_tasks() <= idle_tasks)
            await until(lambda: num_open_files() <= idle_files)
            assert engine.cancelled
            engine.submitted.clear()
            engine.cancelled.clear()
            assert streams_alive() == []
            return num_memory_blocks()

        sizes = [await rush(NUM_REQUESTS // 4, seed) for seed in range(5)]  # first, caches fill
        assert service.num_open == 0
        assert engine.status().num_free_blocks == engine.status().num_blocks
    assert asyncio.all_tasks() == own_tasks
    assert all(crowd.seen[act.__name__] > 50 for act in ACTS), crowd.seen
    # One forgotten request would hold over thirty blocks. A few belong to timers of closed
    # connections, which the event loop sweeps out from time to time.
    assert max(sizes) - sizes[0] < 5 * NUM_REQUESTS, sizes
