"""A step with drafts draws several tokens of one answer; on the wire nothing tells them apart."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from llamastream.generation import NewAnswer
from llamastream.records import Drawn
from llamastream.sampling import SamplingParams
from llamastream.types import ChatRequest, Message
from tests.api.conftest import Connect
from tests.api.raw import RawClient
from tests.api.sse import chat_body, content_of, stream_chat
from tests.api.test_responses import events_of, id_of, stream
from tests.doubles.engine import FakeEngine
from tests.doubles.jina_servers import http_port
from tests.doubles.service import open_answer, running_responses, running_service, says
from tests.doubles.waiting import until

TEXT = "Paris, é 😀. And so on."
HI = (Message("user", "hi"),)


async def of_chat(connect: Connect, num_tokens: int, **options: Any) -> list[Any]:
    """Everything of each event but names and times."""
    client = await connect(FakeEngine(says(TEXT), tokens_per_step=num_tokens))
    options |= {"stream_options": {"include_usage": True}, "return_token_ids": True}
    chunks = (await stream_chat(client, **options))[:-1]
    return [{**chunk, "id": "", "created": 0} for chunk in chunks]


@pytest.mark.parametrize(
    "options",
    [{}, {"stop": [". And"]}, {"max_tokens": 8}, {"logprobs": True, "top_logprobs": 2}, {"n": 3}],
    ids=str,
)
async def test_chat_events_and_usage_are_the_same(
    connect: Connect, options: dict[str, Any]
) -> None:
    one, several = [await of_chat(connect, count, **options) for count in (1, 5)]
    if "n" in options:  # the choices take turns by steps

        def index(chunk: Any) -> int:
            return chunk["choices"][0]["index"] if chunk["choices"] else 3

        one, several = sorted(one, key=index), sorted(several, key=index)
    assert several == one


async def test_tokens_of_one_step_are_events_of_their_own_in_one_piece(connect: Connect) -> None:
    engine = FakeEngine(says("abcdef"), manual=True, tokens_per_step=3)
    client = await connect(engine)
    async with RawClient(client.base_url) as raw:
        raw.post("/v1/chat/completions", chat_body(stream=True))
        for letters in ("abc", "def"):
            engine.allow()
            await raw.read_until(b'"content":"%c"' % letters[-1].encode())
            # HTTP frames what is sent at once: the three events are in one chunk.
            piece = next(
                chunk for chunk in raw.seen.split(b"\r\n") if b'"%c"' % letters[0].encode() in chunk
            )
            assert [piece.count(b'"content":"%c"' % letter.encode()) for letter in letters] == [
                1
            ] * 3
        engine.allow()
        await raw.read_all()


async def test_a_stop_string_inside_a_step_ends_answer_and_request(connect: Connect) -> None:
    engine = FakeEngine(says("one two three four"), tokens_per_step=7)
    chunks = await stream_chat(await connect(engine), stop=["two"])
    assert content_of(chunks) == "one "
    assert len(engine.cancelled) == 1 and engine.num_alive == 0


async def test_events_of_a_response_are_the_same_from_any_number_on(
    connect_stored: Connect,
) -> None:
    client = await connect_stored(FakeEngine(says(TEXT), tokens_per_step=4))
    text = await stream(client)
    events = events_of(text)
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    assert len(deltas) == len(TEXT.encode()) + 1
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    blocks = text.split("\n\n")
    path = f"/v1/responses/{id_of(text)}?stream=true"
    for after in (0, 5, 6, 7, len(events) - 2):  # in the middle of a step, too
        again = (await client.get(f"{path}&starting_after={after}")).text
        assert again == "\n\n".join(blocks[after + 1 :])


async def test_a_step_is_one_transaction_and_the_next_server_goes_on_behind_it(
    tmp_path: Path,
) -> None:
    first = FakeEngine(says(TEXT), manual=True, tokens_per_step=5)
    async with running_responses(first, tmp_path) as responses:
        transactions: list[int] = []
        append = responses._store.append

        def spy(drawn: Sequence[Drawn]) -> Any:
            transactions.append(drawn[0].num_tokens)
            return append(drawn)

        responses._store.append = spy  # type: ignore[method-assign]
        new = NewAnswer("r", {"model": "demo"}, store=True, background=True)
        log = await responses.create(ChatRequest(HI, sampling=SamplingParams(seed=1)), new)
        first.allow(2)
        await until(lambda: log.num_public == 10)
        assert transactions == [5, 10]
    second = FakeEngine(says(TEXT), tokens_per_step=5)
    async with running_responses(second, tmp_path) as responses:
        log = await responses.find("r", scope="")
        await until(lambda: log.end is not None)
        assert log.num_tokens == len(TEXT.encode()) + 1
    assert second.submitted[0].output_ids == tuple(TEXT.encode()[:10])


async def test_jina_gets_one_document_per_visible_token() -> None:
    found = []
    for count in (1, 4):
        engine = FakeEngine(says(TEXT), tokens_per_step=count)
        async with running_service(engine) as service, http_port(service) as port:
            async with httpx.AsyncClient() as client:
                document = {"prompt": "Hi", "max_tokens": 100}
                response = await client.post(f"http://127.0.0.1:{port}/stream", json=document)
        events = [line[6:] for line in response.text.split("\r\n") if line.startswith("data: ")]
        found.append([(d["generated_text"], d["token_id"]) for d in map(json.loads, events)])
    assert found[0] == found[1]
    assert "".join(text for text, _ in found[0]) == TEXT


async def test_metrics_count_tokens_and_what_the_engine_drafted() -> None:
    engine = FakeEngine(says("abcdefgh"), tokens_per_step=3)
    async with running_service(engine) as service:
        generation = await open_answer(service, ChatRequest(HI))
        with generation.follow() as reader:
            numbers = [delta.sequence_number async for delta in reader]
        text = service.metrics.render().decode()
    assert numbers == list(range(10))  # the ninth token ends the turn, the last delta says so
    assert "llamastream_output_tokens_total 9.0" in text
    assert "llamastream_time_per_output_token_seconds_count 1.0" in text
    assert "llamastream_drafted_tokens_total 9.0" in text  # the scripted engine says so
    assert "llamastream_accepted_tokens_total 6.0" in text
