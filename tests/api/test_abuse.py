"""A thousand requests of all kinds at once: whatever some clients do, the others get their answers
and nothing stays behind. The same crowd can be let loose on a real engine.
"""

import asyncio
import gc
import os
import sys

import pytest

from llamastream.generation import Generation
from llamastream.types import GenerationRequest
from tests.api.crowd import ACTS, Crowd
from tests.doubles.engine import FakeEngine
from tests.doubles.server import running_server
from tests.doubles.service import make_service
from tests.doubles.tokenizer import IM_END
from tests.doubles.waiting import until

NUM_REQUESTS = 1000


def echo(request: GenerationRequest) -> list[int]:
    """The script's answer is made of the question, so that mixed-up streams are seen."""
    prompt = bytes(i for i in request.prompt_ids if i < 256).decode()
    question = prompt.partition("user\n")[2].partition("\n")[0]
    return [*f"Answer to {question}".encode(), IM_END]


def num_open_files() -> int:
    return len(os.listdir("/dev/fd"))


def num_memory_blocks() -> int:
    """What Python objects hold now."""
    gc.collect()
    return sys.getallocatedblocks()


def streams_alive() -> list[object]:
    return [thing for thing in gc.get_objects() if type(thing) is Generation]


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # sockets that were broken off
async def test_a_thousand_requests_leave_nothing_behind() -> None:
    engine = FakeEngine(echo)
    service = make_service(engine)
    own_tasks = asyncio.all_tasks()
    async with running_server(service) as server:
        crowd = Crowd(server)
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
            for question, max_tokens, answer in crowd.heard:
                assert answer == f"Answer to {question}"[:max_tokens]
            crowd.heard.clear()
            return num_memory_blocks()

        sizes = [await rush(NUM_REQUESTS // 4, seed) for seed in range(5)]  # first, caches fill
        assert service.num_open == 0
        assert engine.status().num_free_blocks == engine.status().num_blocks
    assert asyncio.all_tasks() == own_tasks
    assert all(crowd.seen[act.__name__] > 50 for act in ACTS), crowd.seen
    # One forgotten request would hold over thirty blocks. A few belong to timers of closed
    # connections, which the event loop sweeps out from time to time.
    assert max(sizes) - sizes[0] < 15 * NUM_REQUESTS, sizes
