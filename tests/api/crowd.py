"""A crowd of clients of one server: some read to the end, some stall, leave, break off, or send
rubbish. What the readers heard is kept, to be compared with what each hears when it asks alone.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import httpx

from tests.api.raw import RawClient
from tests.api.sse import chat_body, content_of, events

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
NUM_AT_ONCE = 64

Act = Callable[["Crowd", random.Random], Awaitable[None]]


class Heard(NamedTuple):
    question: str
    max_tokens: int
    answer: str


class Crowd:
    """Clients of one server."""

    def __init__(self, server: str) -> None:
        self.server = server
        self.heard: list[Heard] = []
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
    crowd.heard.append(Heard(text, max_tokens, content_of(events(data))))


async def read_slowly(crowd: Crowd, dice: random.Random) -> None:
    """A byte at a time at first, and with pauses in which others have their turns."""
    body, text, max_tokens = _question(dice)
    async with RawClient(crowd.server) as raw:
        raw.post(CHAT, body)
        await raw.read_slowly(num_reads=dice.randrange(100))
        seen = (await raw.read_all()).decode()
    data = "".join(seen.partition("\r\n\r\n")[2].split("\r\n")[1::2])
    crowd.heard.append(Heard(text, max_tokens, content_of(events(data))))


async def ask_for_the_whole(crowd: Crowd, dice: random.Random) -> None:
    body, text, max_tokens = _question(dice)
    async with httpx.AsyncClient(base_url=crowd.server, timeout=60) as client:
        response = await client.post(CHAT, json=body | {"stream": False})
    answer = response.json()["choices"][0]["message"]["content"]
    crowd.heard.append(Heard(text, max_tokens, answer))


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
        raw.send(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n{"
        )
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
