"""The server ends in the middle of streams: by kill -9, or by SIGTERM, and is started again."""

import asyncio
import random
import signal
from pathlib import Path
from typing import Any

from tests.soak.rounds import Figures, Rounds, make_requests
from tests.soak.server import Server

# Of a model that knows tools, in few words: it has a context of 512 tokens.
TEMPLATE = Path(__file__).with_name("tools.jinja")
TERM_SHARE = 0.2  # of all ends: SIGTERM, which parks what is not done in time
DRAIN_TIMEOUT_S = 0.1


async def kill(rounds: int, *, seed: int, folder: Path, options: tuple[str, ...] = ()) -> Figures:
    return await _kill(rounds, random.Random(seed), folder, options)


async def calls(rounds: int, *, seed: int, folder: Path, options: tuple[str, ...] = ()) -> Figures:
    """The same amid calls of tools: none may be lost, doubled or another, and each has the id that
    its response's name and its place give it."""
    rng = random.Random(seed)
    options = ("--chat-template", str(TEMPLATE), *options)
    return await _kill(
        rounds, rng, folder, options, requests=make_calls(rng), transports=("sse", "websocket")
    )


async def _kill(
    rounds: int, rng: random.Random, folder: Path, options: tuple[str, ...], **what: Any
) -> Figures:
    options = ("--drain-timeout", str(DRAIN_TIMEOUT_S), *options)
    async with Server(folder, options) as server, Rounds(server, rng, **what) as play:

        async def kill_sometime() -> None:
            for _ in range(rng.choice((1, 1, 1, 2))):
                await asyncio.sleep(rng.random() * 0.6)
                is_gentle = rng.random() < TERM_SHARE
                num_amid = sum(reader.is_amid_call for reader in play.readers)
                await server.stop(signal.SIGTERM if is_gentle else signal.SIGKILL)
                play.figures.events["terms" if is_gentle else "kills"] += 1
                play.figures.events["amid_calls"] += num_amid
                await server.start()

        for _ in range(rounds):
            await play.play(kill_sometime)
            play.figures.events["calls"] += sum(len(reader.calls) for reader in play.readers)
    return play.figures


def make_calls(rng: random.Random) -> list[dict[str, Any]]:
    """Requests for calls, of a model that knows no tools and calls whatever it draws."""
    order = {
        "type": "object",
        "properties": {
            "what": {"type": "string", "maxLength": 60},
            "how": {"enum": ["soon", "late"]},
            "to": {"type": "array", "items": {"type": "string", "maxLength": 20}, "maxItems": 3},
        },
        "required": ["what", "how", "to"],
    }
    tools = [
        {"type": "function", "name": "order", "parameters": order},
        {"type": "function", "name": "wait"},
    ]
    more = {"tools": tools, "tool_choice": "required", "ignore_eos": False}
    requests = make_requests(rng)
    return [r | more | {"max_output_tokens": r["max_output_tokens"] // 2} for r in requests]
