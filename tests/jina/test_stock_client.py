"""The article's client, unmodified, against our servers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from llamastream import errors
from llamastream.jina.format import MAX_APART
from tests.doubles.jina_servers import Readiness, Start, grpc_port, http_port
from tests.doubles.scripted_answers import ScriptedAnswers
from tests.doubles.waiting import LIMIT_S
from tests.jina.conftest import StockClient

TEXTS = ["Hé", "llo ", "🙂🇩🇪", "event: x", " event: update\r\ndata: {}", "\n", "  "]


@pytest.fixture(params=["grpc", "http"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def start(protocol: str, ready: Readiness) -> AsyncIterator[Start]:
    """Starts our server for the protocol."""
    async with contextlib.AsyncExitStack() as servers:
        serve = {"grpc": grpc_port, "http": http_port}[protocol]
        yield lambda service: servers.enter_async_context(serve(service, ready))


async def test_prints_the_exact_text(
    stock_client: StockClient, protocol: str, start: Start
) -> None:
    service = ScriptedAnswers(*TEXTS)
    answer = await stock_client.one(protocol, await start(service))
    assert answer["error"] is None
    assert answer["texts"] == TEXTS
    assert answer["token_ids"] == [1000 + i for i in range(len(TEXTS))]
    assert service.requests[0].prompt == "Hi"
    assert service.requests[0].sampling.max_tokens == 5


async def test_sixteen_streams_at_once(
    stock_client: StockClient, protocol: str, start: Start
) -> None:
    # A script is faster than the client. Of more deltas, those that wait would be joined.
    texts = [f"{i} " for i in range(MAX_APART)]
    answers = await stock_client.ask(protocol, await start(ScriptedAnswers(*texts)), n=16)
    assert len(answers["answers"]) == 16
    for answer in answers["answers"]:
        assert (answer["error"], answer["texts"]) == (None, texts)


async def test_empty_answer(stock_client: StockClient, protocol: str, start: Start) -> None:
    answer = await stock_client.one(protocol, await start(ScriptedAnswers()))
    assert (answer["error"], answer["texts"]) == (None, [])


async def test_one_token(stock_client: StockClient, protocol: str, start: Start) -> None:
    service = ScriptedAnswers("a")
    document = {"prompt": "Hi", "max_tokens": 1}
    answer = await stock_client.one(protocol, await start(service), document=document)
    assert (answer["error"], answer["texts"]) == (None, ["a"])
    assert service.requests[0].sampling.max_tokens == 1


async def test_readiness(
    stock_client: StockClient, protocol: str, start: Start, ready: Readiness
) -> None:
    port = await start(ScriptedAnswers())
    for value in (True, False):
        ready.value = value
        assert (await stock_client.ask(protocol, port, n=0))["ready"] is value


async def test_error_in_the_middle_raises_once(
    stock_client: StockClient, protocol: str, start: Start
) -> None:
    service = ScriptedAnswers("a", "b", errors.InternalError("the engine broke"))
    answer = await stock_client.one(protocol, await start(service))
    assert answer["texts"] == ["a", "b"]
    assert "the engine broke" in answer["error"]
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    "refusal",
    [errors.InvalidRequest("too warm"), errors.Overloaded("full"), errors.EngineDead("loading")],
    ids=lambda refusal: refusal.code,
)
async def test_refusal_raises(
    stock_client: StockClient, protocol: str, start: Start, refusal: errors.ChatError
) -> None:
    service = ScriptedAnswers(refusal=refusal)
    answer = await stock_client.one(protocol, await start(service))
    assert answer["texts"] == []
    assert refusal.message in answer["error"]
    assert len(service.requests) == 1


async def test_bad_max_tokens_raises(
    stock_client: StockClient, protocol: str, start: Start
) -> None:
    port = await start(ScriptedAnswers("a"))
    answer = await stock_client.one(protocol, port, document={"prompt": "Hi", "max_tokens": 0})
    assert "max_tokens must be >= 1" in answer["error"]


async def test_leaving_closes_the_stream(
    stock_client: StockClient, protocol: str, start: Start
) -> None:
    service = ScriptedAnswers("a", asyncio.Event())
    answer = await stock_client.one(protocol, await start(service), leave_after=1)
    assert answer["texts"] == ["a"]
    await asyncio.wait_for(service.streams[0].closed.wait(), LIMIT_S)
