"""Chat completions with `store: true`: kept, resumed behind any frame, generated once."""

import asyncio
import re

import httpx
import openai
import pytest

from llamastream.errors import InternalError
from tests.api.conftest import Connect, openai_client
from tests.api.schemas import needs_schemas, validate
from tests.api.sse import chat_body, content_of, events
from tests.doubles.engine import FakeEngine
from tests.doubles.service import says

TEXT = "Paris, é 😀."


async def stream(client: httpx.AsyncClient, **options: object) -> str:
    body = chat_body(stream=True, store=True, **options)
    answer = await client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.text


def without_ids(text: str) -> str:
    return re.sub(r"^id: \d+\n", "", text, flags=re.MULTILINE)


def id_of(text: str) -> str:
    return str(events(without_ids(text))[0]["id"])


async def test_each_frame_has_a_number_and_reads_as_ever(connect_stored: Connect) -> None:
    client = await connect_stored(FakeEngine(says(TEXT)))
    text = await stream(client, stream_options={"include_usage": True})
    numbers = [int(number) for number in re.findall(r"^id: (\d+)$", text, re.MULTILINE)]
    assert numbers == list(range(len(numbers)))
    chunks = events(without_ids(text))
    assert content_of(chunks) == TEXT
    assert chunks[-1] == "[DONE]"
    assert chunks[-2]["usage"]["completion_tokens"] == len(TEXT.encode()) + 1


async def test_a_reader_comes_again_with_the_last_event_id(connect_stored: Connect) -> None:
    client = await connect_stored(FakeEngine(says(TEXT)))
    text = await stream(client)
    blocks = text.split("\n\n")
    path = f"/v1/chat/completions/{id_of(text)}?stream=true"
    assert (await client.get(path)).text == text
    for after in range(len(blocks) - 2):
        expected = "\n\n".join(blocks[min(after + 1, len(blocks) - 3) :])
        header = {"Last-Event-ID": str(after)}
        assert (await client.get(path, headers=header)).text == expected
        assert (await client.get(f"{path}&starting_after={after}")).text == expected
    assert (await client.get(f"{path}&starting_after=999")).text == "\n\n".join(blocks[-3:])


async def test_a_stop_string_ends_it_for_every_reader_alike(connect_stored: Connect) -> None:
    client = await connect_stored(FakeEngine(says("one two three")))
    text = await stream(client, stop=["two"])
    chunks = events(without_ids(text))
    assert content_of(chunks) == "one "
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    again = await client.get(f"/v1/chat/completions/{id_of(text)}?stream=true")
    assert again.text == text


async def test_a_whole_answer_is_retrieved_and_deleted(connect_stored: Connect) -> None:
    server = await connect_stored(FakeEngine(says(TEXT)))
    async with openai_client(server) as client:
        made = await client.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": "hi"}],
            store=True,
            metadata={"a": "b"},
            extra_body={"return_token_ids": True},
        )
        assert made.choices[0].message.content == TEXT
        assert await client.chat.completions.retrieve(made.id) == made
        assert (await client.chat.completions.delete(made.id)).deleted
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.retrieve(made.id)


async def test_stored_chats_are_listed_filtered_and_changed(connect_stored: Connect) -> None:
    engine = FakeEngine(says(TEXT))
    server = await connect_stored(engine)
    async with openai_client(server) as client:
        made = [
            await client.chat.completions.create(
                model="demo",
                messages=[{"role": "user", "content": f"question {k}"}],
                store=True,
                metadata={"parity": "odd" if k % 2 else "even", "k": str(k)},
            )
            for k in range(5)
        ]
        await client.responses.create(model="demo", input="hi")  # of another kind
        assert [one async for one in client.chat.completions.list(limit=2)] == made
        page = await client.chat.completions.list(order="desc", limit=2, after=made[3].id)
        assert (page.data, page.has_more) == ([made[2], made[1]], True)
        odd = client.chat.completions.list(metadata={"parity": "odd"}, model="demo", limit=1)
        assert [one.id async for one in odd] == [made[1].id, made[3].id]
        page = await client.chat.completions.list(metadata={"parity": "odd", "k": "2"})
        assert (page.data, page.has_more) == ([], False)
        assert (await client.chat.completions.list(model="other")).data == []
        changed = await client.chat.completions.update(made[0].id, metadata={"new": "x"})
        assert changed.model_dump() == made[0].model_dump() | {"metadata": {"new": "x"}}
        assert await client.chat.completions.retrieve(made[0].id) == changed
        found = await client.chat.completions.list(metadata={"new": "x"})
        assert found.data == [changed]


async def test_the_messages_of_a_stored_chat_come_in_pages(connect_stored: Connect) -> None:
    server = await connect_stored(FakeEngine(says(TEXT)))
    async with openai_client(server) as client:
        made = await client.chat.completions.create(
            model="demo",
            messages=[
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "Capital"}]},
                {"role": "assistant", "content": "Of what?"},
            ],
            store=True,
        )
        listed = client.chat.completions.messages.list(made.id, limit=1)
        messages = [message async for message in listed]
        assert [(m.role, m.content) for m in messages] == [
            ("system", "Be brief."),
            ("user", "Capital"),
            ("assistant", "Of what?"),
        ]
        assert [m.id for m in messages] == [f"{made.id}-{k}" for k in range(3)]
        await client.chat.completions.delete(made.id)
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.messages.list(made.id)
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.update(made.id, metadata={})


async def test_metadata_changed_while_it_is_generated_stays(connect_stored: Connect) -> None:
    engine = FakeEngine(says(TEXT), manual=True)
    client = await connect_stored(engine)
    path = "/v1/chat/completions"
    async with client.stream("POST", path, json=chat_body(store=True, stream=True)) as answer:
        id = engine.submitted[0].request_id
        assert (await client.get(path)).json()["data"] == []
        change = client.post(f"{path}/{id}", json={"metadata": {"a": "b"}})
        changed = asyncio.create_task(change)
        engine.allow(100)
        await answer.aread()
    assert (await changed).json()["metadata"] == {"a": "b"}
    assert (await client.get(path)).json()["data"] == [(await changed).json()]


@pytest.mark.parametrize("query", ["metadata=x", "metadata[]=x", "limit=0", "order=up", "what=1"])
async def test_a_bad_list_is_refused(connect_stored: Connect, query: str) -> None:
    client = await connect_stored(FakeEngine(says(TEXT)))
    assert (await client.get(f"/v1/chat/completions?{query}")).status_code == 400


@needs_schemas
async def test_what_is_retrieved_is_as_openai_publishes_it(connect_stored: Connect) -> None:
    client = await connect_stored(FakeEngine(says(TEXT)))
    made = await client.post("/v1/chat/completions", json=chat_body(store=True))
    whole = await client.get(f"/v1/chat/completions/{made.json()['id']}")
    validate("CreateChatCompletionResponse", whole.json())


async def test_an_idempotency_key_begins_one_answer(connect_stored: Connect) -> None:
    engine = FakeEngine(says(TEXT))
    client = await connect_stored(engine)
    header = {"Idempotency-Key": "once"}
    answers = [
        await client.post("/v1/chat/completions", json=chat_body(store=True), headers=header)
        for _ in range(2)
    ]
    assert answers[0].json() == answers[1].json()


async def test_one_kind_of_id_does_not_open_the_other(connect_stored: Connect) -> None:
    client = await connect_stored(FakeEngine(says(TEXT)))
    chat = (await client.post("/v1/chat/completions", json=chat_body(store=True))).json()["id"]
    body = {"model": "demo", "input": "hi"}
    response = (await client.post("/v1/responses", json=body)).json()["id"]
    for path in (f"/v1/responses/{chat}", f"/v1/chat/completions/{response}"):
        assert (await client.get(path)).status_code == 404
    continued = await client.post("/v1/responses", json=body | {"previous_response_id": chat})
    assert continued.json()["error"]["code"] == "previous_response_not_found"


async def test_a_failure_is_told_to_every_reader(connect_stored: Connect) -> None:
    engine = FakeEngine(says(TEXT), manual=True)
    client = await connect_stored(engine)
    path = "/v1/chat/completions"
    async with client.stream("POST", path, json=chat_body(store=True, stream=True)) as answer:
        engine.fail(engine.submitted[0].request_id, InternalError("the runner failed"))
        text = (await answer.aread()).decode()
    assert events(text)[-1]["error"]["message"] == "the runner failed"
    id = engine.submitted[0].request_id
    assert (await client.get(f"{path}/{id}")).status_code == 500


async def test_many_choices_cannot_be_stored(connect_stored: Connect) -> None:
    client = await connect_stored(FakeEngine(says(TEXT)))
    answer = await client.post("/v1/chat/completions", json=chat_body(store=True, n=2))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "n")
