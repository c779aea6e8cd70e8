"""What models of every family say with tools, word by word through the real engine, the service and
every interface: the same calls everywhere, in whatever tokens they come."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from llamastream.config import EngineConfig
from llamastream.engine.async_engine import AsyncEngine
from llamastream.engine.llm_engine import LLMEngine
from llamastream.text import Tokenizer
from llamastream.tools import CallSyntax, ToolFormat
from tests.doubles.call_formats import Call, Piece, written
from tests.doubles.scripted_runner import ScriptedRunner
from tests.doubles.server import running_server
from tests.doubles.service import make_responses, make_service
from tests.doubles.tokenizer import END_THINK, THINK
from tests.doubles.tool_models import TOOL_MODELS, ToolModel
from tests.doubles.waiting import LIMIT_S
from tests.end_to_end.hearing import EVERY_WAY, Question

CITY = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "near": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["city"],
}
TOOLS = [
    {"type": "function", "name": "weather", "parameters": CITY},
    {"type": "function", "name": "now"},
]
THOUGHT, TEXT = "Is it <b>cold</b>,\n{or} </so?", "I look, é."
OSLO: Call = ("weather", {"city": 'Oslo "}</tool_call>', "days": -3, "near": ["[x]", "it's"]})
NOW: Call = ("now", {})


class Said(NamedTuple):
    text: str = ""
    calls: Sequence[Call] = ()
    choice: str = "auto"
    tools: Sequence[dict[str, Any]] = TOOLS


TRANSCRIPTS = {
    "no tools": Said(TEXT, tools=()),
    "text": Said(TEXT),
    "text and calls": Said(TEXT, [OSLO, NOW, OSLO]),
    "a call that must be": Said("", [OSLO], "required"),
}


class Playing(NamedTuple):
    client: httpx.AsyncClient
    runner: ScriptedRunner
    format: ToolFormat
    end: int


@asynccontextmanager
async def playing(model: ToolModel, folder: Path) -> AsyncIterator[Playing]:
    tokenizer = Tokenizer(model.config)
    runner = ScriptedRunner(tokenizer)
    engine = AsyncEngine(lambda: LLMEngine(runner, EngineConfig()))
    service = make_service(engine, config=model.config)
    async with (
        running_server(service, None, make_responses(service, folder)) as url,
        httpx.AsyncClient(base_url=url, timeout=LIMIT_S) as client,
    ):
        await engine.ready()
        end = tokenizer.token_id(model.end)
        assert end is not None
        yield Playing(client, runner, service.prompting.tool_format, end)


def reasoned(model: ToolModel, thinks: bool | None) -> tuple[str, list[Piece]]:
    """What is thought before an answer, and how it is written."""
    if thinks is False or "<think>" not in model.template:
        return "", []
    opening: list[Piece] = [] if model.thinks else [THINK, "\n"]
    return THOUGHT, [*opening, f"{THOUGHT}\n", END_THINK, "\n\n"]


def possible(said: Said, format: ToolFormat) -> tuple[str, list[Call]]:
    """The text and the calls of it that a format can write."""
    calls = list(said.calls) if format.takes_several else list(said.calls[:1])
    is_alone = format.begin is None and format.syntax in (CallSyntax.LLAMA, CallSyntax.PYTHONIC)
    return "" if calls and is_alone else said.text, calls


@pytest.mark.parametrize("name", TOOL_MODELS)
async def test_every_way_to_ask_finds_the_same_calls(name: str, tmp_path: Path) -> None:
    model = TOOL_MODELS[name]
    async with playing(model, tmp_path) as (client, runner, format, end):
        for number, said in enumerate(TRANSCRIPTS.values()):
            thinks = number % 3 == 0 if "enable_thinking" in model.template else None
            thought, reasoning = reasoned(model, thinks)
            text, calls = possible(said, format)
            expected = [(tool, given) for tool, given in calls]
            pieces = [*reasoning, *written(format, text, calls)]
            question = Question(said.tools, said.choice, thinks)
            for cutting, (way, ask) in enumerate(EVERY_WAY.items()):
                runner.play(pieces, end, cutting=100 * number + cutting)
                heard = await ask(client, question)
                made = [(tool, json.loads(arguments)) for tool, arguments in heard.calls]
                assert (heard.thought, heard.text, made) == (thought, text, expected), way
                assert len(set(heard.ids)) == len(calls), way
