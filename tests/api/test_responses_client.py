"""The official `openai` client, unchanged, on stored responses and conversations."""

import openai
import pytest
from openai.types.responses import Response

from tests.api.conftest import Connect, openai_client
from tests.doubles.engine import FakeEngine
from tests.doubles.service import last_user_words, says
from tests.doubles.waiting import until

TEXT = "Paris, é 😀."


async def test_create_whole_and_streamed(connect_stored: Connect) -> None:
    async with openai_client(await connect_stored(FakeEngine(says(TEXT)))) as client:
        whole = await client.responses.create(model="demo", input="Capital?")
        assert whole.output_text == TEXT
        assert whole.status == "completed"
        stream = await client.responses.create(model="demo", input="Capital?", stream=True)
        events = [event async for event in stream]
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert events[-1].type == "response.completed"
        assert events[-1].response.output_text == TEXT


async def test_the_streaming_helper_sees_the_final_response(connect_stored: Connect) -> None:
    async with openai_client(await connect_stored(FakeEngine(says(TEXT)))) as client:
        async with client.responses.stream(model="demo", input="Capital?") as stream:
            deltas = [e.delta async for e in stream if e.type == "response.output_text.delta"]
            final = await stream.get_final_response()
    assert "".join(deltas) == final.output_text == TEXT


async def test_a_background_response_is_followed_later_from_any_event(
    connect_stored: Connect,
) -> None:
    engine = FakeEngine(says(TEXT), manual=True)
    async with openai_client(await connect_stored(engine)) as client:
        created = await client.responses.create(model="demo", input="Capital?", background=True)
        assert created.status == "in_progress"
        engine.allow(100)
        stream = await client.responses.retrieve(created.id, stream=True)
        events = [event async for event in stream]
        stream = await client.responses.retrieve(created.id, stream=True, starting_after=7)
        assert [event async for event in stream] == events[8:]
        retrieved = await client.responses.retrieve(created.id)
    assert isinstance(retrieved, Response)
    assert retrieved.output_text == TEXT


async def test_cancel_and_delete(connect_stored: Connect) -> None:
    engine = FakeEngine(says(TEXT), manual=True)
    async with openai_client(await connect_stored(engine)) as client:
        created = await client.responses.create(model="demo", input="Capital?", background=True)
        assert (await client.responses.cancel(created.id)).status == "cancelled"
        await client.responses.delete(created.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(created.id)


async def test_a_response_goes_on_from_the_one_before_it(connect_stored: Connect) -> None:
    engine = FakeEngine(last_user_words)
    async with openai_client(await connect_stored(engine)) as client:
        first = await client.responses.create(
            model="demo", input="My name is Ada.", instructions="Be kind."
        )
        second = await client.responses.create(
            model="demo", input="Who am I?", previous_response_id=first.id
        )
        items = await client.responses.input_items.list(second.id, order="asc")
    prompt = bytes(i for i in engine.submitted[1].prompt_ids if i < 256).decode()
    turns = "user\nMy name is Ada.\nassistant\nMy name is Ada.\nuser\nWho am I?\nassistant\n"
    assert prompt == turns  # instructions are of one response only
    assert second.previous_response_id == first.id
    assert [item.content[0].text for item in items.data] == ["Who am I?"]  # type: ignore[union-attr]


async def test_a_conversation_keeps_what_was_said(connect_stored: Connect) -> None:
    engine = FakeEngine(says("Fine."))
    async with openai_client(await connect_stored(engine)) as client:
        conversation = await client.conversations.create(
            metadata={"topic": "health"},
            items=[{"type": "message", "role": "user", "content": "Hello"}],
        )
        for text in ("How are you?", "Really?"):
            answer = await client.responses.create(
                model="demo", input=text, conversation=conversation.id
            )
        assert answer.conversation is not None
        assert answer.conversation.id == conversation.id
        listed = await client.conversations.items.list(conversation.id, order="asc")
        texts = [item.content[0].text for item in listed.data]  # type: ignore[union-attr]
        assert texts == ["Hello", "How are you?", "Fine.", "Really?", "Fine."]
        one = await client.conversations.items.retrieve(
            listed.data[2].id or "", conversation_id=conversation.id
        )
        assert one.role == "assistant"  # type: ignore[union-attr]
    prompt = bytes(i for i in engine.submitted[-1].prompt_ids if i < 256).decode()
    assert prompt.startswith("user\nHello\nuser\nHow are you?\nassistant\nFine.\nuser\nReally?")


async def test_conversations_are_changed_and_deleted(connect_stored: Connect) -> None:
    async with openai_client(await connect_stored(FakeEngine(says(TEXT)))) as client:
        conversation = await client.conversations.create()
        changed = await client.conversations.update(conversation.id, metadata={"a": "b"})
        assert changed.metadata == {"a": "b"}
        assert await client.conversations.retrieve(conversation.id) == changed
        added = await client.conversations.items.create(
            conversation.id,
            items=[
                {"type": "message", "role": "user", "content": "Hi"},
                {"type": "message", "role": "assistant", "content": "Ho"},
            ],
        )
        await client.conversations.items.delete(
            added.data[0].id or "", conversation_id=conversation.id
        )
        left = await client.conversations.items.list(conversation.id)
        assert [item.id for item in left.data] == [added.data[1].id]
        assert (await client.conversations.delete(conversation.id)).deleted
        with pytest.raises(openai.NotFoundError):
            await client.conversations.retrieve(conversation.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.create(model="demo", input="x", conversation=conversation.id)


async def test_the_clients_websocket_follows_many_responses(connect_stored: Connect) -> None:
    engine = FakeEngine(last_user_words)
    async with openai_client(await connect_stored(engine)) as client:
        async with client.responses.connect() as socket:
            for k in range(3):
                await socket.response.create(model="demo", input=f"word {k}", stream_id=f"s{k}")
            texts: dict[str, str] = {}
            while len(texts) < 3:
                event = await socket.recv()
                if event.type == "response.completed":
                    texts[event.stream_id] = event.response.output_text  # type: ignore[union-attr]
    assert texts == {f"s{k}": f"word {k}" for k in range(3)}


async def test_a_lost_reader_does_not_stop_a_stored_response(connect_stored: Connect) -> None:
    engine = FakeEngine(says(TEXT), manual=True)
    async with openai_client(await connect_stored(engine)) as client:
        stream = await client.responses.create(model="demo", input="Capital?", stream=True)
        created = await anext(aiter(stream))
        await stream.close()
        engine.allow(100)
        await until(lambda: not engine.num_alive)
        stream = await client.responses.retrieve(created.response.id, stream=True)  # type: ignore[union-attr]
        events = [event async for event in stream]
    assert events[-1].response.output_text == TEXT  # type: ignore[union-attr]
