"""Answers of a running server, as `llamastream chat --url` reads them."""

from pathlib import Path

import pytest
from tests.doubles.engine import FakeEngine
from tests.doubles.server import running_server
from tests.doubles.service import make_service, says

from llamastream.cli.answers import read_tools_file
from llamastream.cli.remote import RemoteAnswers
from llamastream.config import AnswerSettings
from llamastream.errors import ChatError
from llamastream.generation.log import joined_parts
from llamastream.types import Message, ToolCall, ToolResult, text_of


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
async def test_the_address_may_be_the_one_that_serve_prints(path: str) -> None:
    async with running_server(make_service(FakeEngine(says("abc")))) as url:
        answers = await RemoteAnswers.connect(url + path, None)
        stream = answers.stream((Message("user", "hi"),), AnswerSettings())
        assert "".join([text async for text in stream]) == "abc"
        await answers.close()


async def test_a_server_that_went_away_is_an_error_for_people() -> None:
    prompt, options = (Message("user", "hi"),), AnswerSettings()
    async with running_server(make_service(FakeEngine(says("abc")))) as url:
        answers = await RemoteAnswers.connect(url, None)
        assert "".join([text async for text in answers.stream(prompt, options)]) == "abc"
    with pytest.raises(ChatError, match="lost the server"):
        await anext(answers.stream(prompt, options))
    await answers.close()


CALL = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'


async def test_calls_and_their_results_go_there_and_back(tmp_path: Path) -> None:
    file = tmp_path / "tools.json"
    file.write_text('[{"type": "function", "function": {"name": "now"}}]')
    tools = read_tools_file(file)
    engine = FakeEngine(says(f"I look.\n{CALL}\n{CALL}"))
    asked = Message("user", "hi")
    service = make_service(engine)
    async with running_server(service) as url:
        remote = await RemoteAnswers.connect(url, None)
        heard = [p async for p in remote.stream((asked,), AnswerSettings(), tools)]
        made = joined_parts(piece for piece in heard if isinstance(piece, ToolCall))
        calls = [part for part in made if isinstance(part, ToolCall)]
        assert [(call.name, call.arguments) for call in calls] == [("now", "{}")] * 2
        assert text_of(piece for piece in heard if isinstance(piece, str)) == "I look."
        results = [Message("tool", (ToolResult(call.id, "9"),)) for call in calls]
        log = (asked, Message("assistant", ("I look.", *calls)), *results)
        assert [p async for p in remote.stream(log, AnswerSettings(), tools)]
        await remote.close()
    prompt = bytes(i for i in engine.submitted[-1].prompt_ids if i < 256).decode()
    assert prompt.count("<tool_response>\n9\n</tool_response>") == 2


@pytest.mark.parametrize("text", ["{}", "[", '[{"type": "function", "function": {}}]', None])
def test_a_file_of_tools_that_is_none_is_an_error_for_people(
    tmp_path: Path, text: str | None
) -> None:
    file = tmp_path / "tools.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ChatError, match="--tools"):
        read_tools_file(file)
