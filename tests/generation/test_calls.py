"""Calls of stored answers: the same after a restart in the middle of one, ids and all."""

import json
from pathlib import Path

import pytest

from llamastream.errors import InvalidRequest
from llamastream.generation import NewAnswer, StoredAnswers
from llamastream.sampling import SamplingParams
from llamastream.tools import Tool
from llamastream.types import ChatRequest, Message, Part, PromptOptions, ToolCall, ToolResult
from tests.doubles.engine import FakeEngine
from tests.doubles.service import running_responses, says
from tests.doubles.waiting import until

CITY = json.dumps({"type": "object", "properties": {"city": {"type": "string"}}})
TOOLS = (Tool("weather", None, CITY), Tool("now"))
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
SAID = f'I look.\n{CALL}\n<tool_call>\n{{"name": "now", "arguments": {{}}}}\n</tool_call>'
REQUEST = ChatRequest(
    (Message("user", "hi"),),
    SamplingParams(seed=1),
    prompt_options=PromptOptions(tools=TOOLS),
)
NEW = NewAnswer("resp_1", store=True)


async def parts(responses: StoredAnswers) -> tuple[Part, ...]:
    """Those of the answer, once it has ended; read as deltas and whole."""
    generation = await responses.find(NEW.id, scope="")
    with generation.follow() as reader:
        deltas = [delta async for delta in reader]
    assert [delta.sequence_number for delta in deltas] == list(range(len(deltas)))
    told = "".join(p.arguments for d in deltas for p in d.parts if isinstance(p, ToolCall))
    assert told == '{"city": "Oslo"}{}'
    return generation.log.parts()


@pytest.mark.parametrize("num_steps", [3, 9, 30, 55, 70, 80, 100, len(SAID)])
async def test_a_call_goes_on_where_it_was(tmp_path: Path, num_steps: int) -> None:
    engine = FakeEngine(says(SAID), manual=True)
    async with running_responses(engine, tmp_path) as responses:
        begun = await responses.create(REQUEST, NEW)
        engine.allow(num_steps)
        await until(lambda: begun.num_public >= num_steps)
        seen = begun.log.deltas(0, num_steps)
    again = FakeEngine(says(SAID))
    async with running_responses(again, tmp_path) as responses:
        text, *calls = await parts(responses)
        generation = await responses.find(NEW.id, scope="")
        assert generation.log.deltas(0, num_steps) == seen
    assert text == "I look."
    made = [(c.name, c.arguments) for c in calls if isinstance(c, ToolCall)]
    assert made == [("weather", '{"city": "Oslo"}'), ("now", "{}")]
    if num_steps < len(SAID):
        assert again.submitted[0].grammar is not None
    async with running_responses(FakeEngine(says("")), tmp_path) as responses:
        assert await parts(responses) == (text, *calls)
    async with running_responses(FakeEngine(says("")), tmp_path, model_id="other") as responses:
        found = await responses.find(NEW.id, scope="")
        assert found.log.parts() == (text, *calls)


async def test_a_result_of_no_call_is_refused(tmp_path: Path) -> None:
    async with running_responses(FakeEngine(says(SAID)), tmp_path) as responses:
        result = Message("tool", (ToolResult("x", ""),))
        request = ChatRequest((Message("user", "hi"), result))
        with pytest.raises(InvalidRequest, match="call 'x'"):
            await responses.create(request, NEW)
