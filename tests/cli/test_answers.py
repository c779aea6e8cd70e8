"""Answers of a running server, as `llamastream chat --url` reads them."""

import pytest
from tests.doubles.engine import FakeEngine
from tests.doubles.server import running_server
from tests.doubles.service import make_service, says

from llamastream.cli.answers import RemoteAnswers
from llamastream.config import AnswerSettings
from llamastream.errors import ChatError
from llamastream.types import Message


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
