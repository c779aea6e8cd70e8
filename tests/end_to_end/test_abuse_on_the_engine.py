"""The crowd of tests/api/crowd.py on the real engine, with real weights.

No block leaked, no task left, every other stream unharmed. The right answer
is the one that the same question gets alone, so this is also a test of the engine's determinism.
"""

import asyncio
from pathlib import Path

import pytest

from llamastream.config import ModelSettings
from llamastream.generation import Answers
from llamastream.sampling import SamplingParams
from llamastream.types import ChatRequest, Message
from tests.api.crowd import ACTS, Crowd
from tests.doubles.server import running_server
from tests.doubles.service import open_answer
from tests.doubles.waiting import until

pytest.importorskip("llamastream.engine._core", reason="the C++ core is not built")
from llamastream.app import assemble

NUM_REQUESTS, NUM_ASKED_AGAIN = 1000, 100
MODEL = Path(__file__).parents[3] / "shared" / "data" / "stories260K"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MODEL.exists(), reason="../shared/data/stories260K is missing"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # sockets that were broken off
]


async def answer_alone(service: Answers, question: str, max_tokens: int) -> str:
    sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0)
    asked = ChatRequest((Message("user", question),), sampling=sampling)
    with (await open_answer(service, asked)).follow() as reader:
        return "".join([delta.text async for delta in reader])


async def test_a_thousand_requests_leave_no_block_behind(tmp_path: Path) -> None:
    settings = ModelSettings(
        model=str(MODEL),
        dtype="float32",
        chat_template="llama2",
        data_dir=tmp_path,
        max_num_seqs=16,
        threads=1,
    )
    assembly = assemble(settings, served_model_name="demo")
    engine, service = assembly.engine, assembly.answers
    async with running_server(service) as server:
        await engine.ready()
        idle_tasks = asyncio.all_tasks()
        crowd = Crowd(server)
        await crowd.rush(NUM_REQUESTS, seed=3)
        await until(lambda: engine.status().num_running + engine.status().num_waiting == 0)
        await until(lambda: asyncio.all_tasks() <= idle_tasks)
        status = engine.status()
        assert status.num_free_blocks == status.num_blocks
        assert service.num_open == 0
        for question, max_tokens, answer in crowd.heard[:NUM_ASKED_AGAIN]:
            assert await answer_alone(service, question, max_tokens) == answer
    assert all(crowd.seen[act.__name__] for act in ACTS), crowd.seen
