"""The whole way from a model's files to text, on the real weights of stories260K in float32."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from llamastream.app import assemble
from llamastream.config import ModelSettings
from llamastream.generation import Answers
from llamastream.sampling import SamplingParams
from llamastream.types import ChatRequest, Delta
from tests.doubles.service import open_answer

SHARED = Path(__file__).parents[2] / "shared" / "data"
BOS = frozenset({1})  # a story ends where the next one would begin

pytestmark = pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data")


@pytest.fixture(params=["stories260K", "stories260K/stories260K-f32.gguf"])
def model(request: pytest.FixtureRequest) -> str:
    return str(SHARED / request.param)


@asynccontextmanager
async def running(model: str, tmp_path: Path) -> AsyncIterator[Answers]:
    assembly = assemble(ModelSettings(model=model, dtype="float32", data_dir=tmp_path))
    await assembly.answers.start()
    try:
        await assembly.engine.ready()
        yield assembly.answers
    finally:
        await assembly.answers.stop()


async def deltas(service: Answers, prompt: str | tuple[int, ...], **sampling: int) -> list[Delta]:
    params = SamplingParams(temperature=0, stop_token_ids=BOS, **sampling)
    generation = await open_answer(service, ChatRequest(prompt, sampling=params))
    with generation.follow() as reader:
        return [delta async for delta in reader]


def ids(answer: list[Delta]) -> list[int]:
    return [token_id for delta in answer for token_id in delta.token_ids]


async def test_all_stories_at_once_are_the_published_ones(model: str, tmp_path: Path) -> None:
    cases = json.loads((SHARED / "stories260K_greedy.json").read_text())["cases"]
    async with running(model, tmp_path) as service:
        answers = await asyncio.gather(
            *(deltas(service, c["prompt"], max_tokens=len(c["greedy_ids"])) for c in cases)
        )
    for case, answer in zip(cases, answers, strict=True):
        assert ids(answer) == case["greedy_ids"]
        assert case["prompt"] + "".join(delta.text for delta in answer) == case["text"]


async def test_the_long_story_ends_where_the_original_program_ends_it(
    model: str, tmp_path: Path
) -> None:
    case = json.loads((SHARED / "stories260K_long_greedy.json").read_text())
    async with running(model, tmp_path) as service:
        details = service.details
        answer = await deltas(service, tuple(case["prompt_ids"]), max_tokens=400)
    assert (details["precision"], details["file_precision"]) == ("float32", "F32")
    assert ids(answer)[: len(case["greedy_ids"])] == case["greedy_ids"]
    assert len(case["greedy_ids"]) > 250
