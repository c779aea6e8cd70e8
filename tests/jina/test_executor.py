"""The article's server script with our Executor, behind Jina's own gateway."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.jina.conftest import StockClient, free_port, running

SERVER = Path(__file__).parent / "scripted_server.py"
TEXTS = ["Hé", "llo ", "🙂", " event: x", "\n"]


@pytest.fixture(scope="module")
def port(jina_python: Path) -> Iterator[int]:
    port = free_port()
    with running(jina_python, SERVER, str(port), "grpc"):
        yield port


async def ask(client: StockClient, port: int, prompt: str, **question: object) -> dict[str, object]:
    document = {"prompt": prompt, "max_tokens": 5} | dict(question.pop("document", {}))
    return await client.one("grpc", port, document=document, **question)


async def num_requests(client: StockClient, port: int) -> int:
    """Requests that reached the service before this one."""
    (text,) = (await ask(client, port, "count"))["texts"]
    return int(text) - 1


async def test_prints_the_exact_text(stock_client: StockClient, port: int) -> None:
    answer = await ask(stock_client, port, "hello")
    assert (answer["error"], answer["texts"]) == (None, TEXTS)
    assert answer["token_ids"] == [1000, 1001, 1002, 1003, 1004]


async def test_sixteen_streams_share_the_service(stock_client: StockClient, port: int) -> None:
    before = await num_requests(stock_client, port)
    document = {"prompt": "many", "max_tokens": 50}
    answers = (await stock_client.ask("grpc", port, n=16, document=document))["answers"]
    assert [answer["texts"] for answer in answers] == [[f"{i} " for i in range(50)]] * 16
    assert await num_requests(stock_client, port) - before == 17


async def test_error_in_the_middle_raises_once_and_repeats_nothing(
    stock_client: StockClient, port: int
) -> None:
    before = await num_requests(stock_client, port)
    answer = await ask(stock_client, port, "break")
    assert answer["texts"] == ["a", "b"]
    assert "the engine broke" in str(answer["error"])
    assert await num_requests(stock_client, port) - before == 2  # the call once, and the count


async def test_refusal_raises_once(stock_client: StockClient, port: int) -> None:
    before = await num_requests(stock_client, port)
    answer = await ask(stock_client, port, "full")
    assert answer["texts"] == []
    assert "the queue is full" in str(answer["error"])
    assert await num_requests(stock_client, port) - before == 2


# Jina's gateway empties a document that it cannot read itself: which field it was is lost there.
@pytest.mark.parametrize(
    ("document", "said"),
    [({"max_tokens": 0}, "max_tokens must be >= 1"), ({"max_tokens": "x"}, "invalid_request")],
)
async def test_bad_document_raises(
    stock_client: StockClient, port: int, document: dict[str, object], said: str
) -> None:
    answer = await ask(stock_client, port, "hello", document=document)
    assert said in str(answer["error"])


async def test_call_that_was_broken_off_is_not_begun_again(
    stock_client: StockClient, port: int
) -> None:
    document = {"id": "1" * 32}
    left = await ask(stock_client, port, "wait", document=document, leave_after=1)
    assert left["texts"] == ["a"]
    again = await ask(stock_client, port, "wait", document=document, leave_after=1)
    assert again["texts"] == []
    assert "not sent twice" in str(again["error"])


async def test_finished_document_may_be_sent_again(stock_client: StockClient, port: int) -> None:
    for _ in range(2):
        answer = await ask(stock_client, port, "hello", document={"id": "2" * 32})
        assert answer["texts"] == TEXTS
