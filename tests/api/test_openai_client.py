"""The official `openai` client reads us unchanged: async and sync, streamed and whole."""

import asyncio

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from llamastream.config import ServeSettings
from llamastream.errors import EngineDead
from tests.api.conftest import Connect, openai_client
from tests.doubles.engine import FakeEngine
from tests.doubles.service import says

TEXT = "Paris, é 😀."
MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Capital of France?"}]


async def test_async_stream_and_whole_answer(connect: Connect) -> None:
    async with openai_client(await connect(FakeEngine(says(TEXT)))) as client:
        stream = await client.chat.completions.create(
            model="demo",
            messages=MESSAGES,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"top_k": 3},
        )
        chunks = [chunk async for chunk in stream]
        text = "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices)
        whole = await client.chat.completions.create(model="demo", messages=MESSAGES)
    assert text == whole.choices[0].message.content == TEXT
    assert chunks[-1].usage is not None
    assert chunks[-1].usage == whole.usage
    assert whole.choices[0].finish_reason == "stop"


async def test_the_streaming_helper_sees_its_events_and_the_final_answer(connect: Connect) -> None:
    async with openai_client(await connect(FakeEngine(says(TEXT)))) as client:
        async with client.chat.completions.stream(
            model="demo", messages=MESSAGES, n=2, logprobs=True, top_logprobs=2
        ) as stream:
            deltas = [event.delta async for event in stream if event.type == "content.delta"]
            final = await stream.get_final_completion()
    assert "".join(deltas) == TEXT * 2 or sorted("".join(deltas)) == sorted(TEXT * 2)
    assert [choice.message.content for choice in final.choices] == [TEXT, TEXT]


async def test_sync_stream_and_whole_answer(connect: Connect) -> None:
    server = await connect(FakeEngine(says(TEXT)))

    def ask() -> tuple[str, str | None]:
        with openai.OpenAI(base_url=f"{server.base_url}/v1", api_key="EMPTY") as client:
            stream = client.chat.completions.create(model="demo", messages=MESSAGES, stream=True)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
            whole = client.chat.completions.create(model="demo", messages=MESSAGES)
            return text, whole.choices[0].message.content

    assert await asyncio.to_thread(ask) == (TEXT, TEXT)


async def test_text_completions(connect: Connect) -> None:
    async with openai_client(await connect(FakeEngine(says(TEXT)))) as client:
        stream = await client.completions.create(
            model="demo", prompt="The capital", stream=True, max_tokens=50, logprobs=1
        )
        text = "".join([chunk.choices[0].text async for chunk in stream])
        whole = await client.completions.create(model="demo", prompt=[1, 2, 3], max_tokens=50)
    assert text == whole.choices[0].text == TEXT


async def test_text_completions_of_many_prompts(connect: Connect) -> None:
    async with openai_client(await connect(FakeEngine(says(TEXT)))) as client:
        whole = await client.completions.create(model="demo", prompt=["a", "b"], max_tokens=50)
        ids = await client.completions.create(model="demo", prompt=[[1], [2, 3]], max_tokens=50)
    assert [choice.text for choice in whole.choices + ids.choices] == [TEXT] * 4


async def test_models(connect: Connect) -> None:
    async with openai_client(await connect(FakeEngine(says(TEXT)))) as client:
        models = [model.id async for model in client.models.list()]
        assert models == ["demo"]
        assert (await client.models.retrieve("demo")).owned_by == "llamastream"
        with pytest.raises(openai.NotFoundError, match="Available: demo"):
            await client.models.retrieve("gpt-5")


async def test_errors_become_the_clients_exceptions(connect: Connect) -> None:
    engine = FakeEngine(says(TEXT), max_num_seqs=0, max_num_waiting=0)
    async with openai_client(await connect(engine)) as client:
        with pytest.raises(openai.NotFoundError) as unknown:
            await client.chat.completions.create(model="gpt-5", messages=MESSAGES)
        assert unknown.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as bad:
            await client.chat.completions.create(model="demo", messages=MESSAGES, top_p=2)
        assert bad.value.param == "top_p"
        with pytest.raises(openai.RateLimitError) as busy:
            await client.chat.completions.create(model="demo", messages=MESSAGES)
        assert busy.value.response.headers["retry-after"] == "7"


async def test_keys(connect: Connect) -> None:
    engine = FakeEngine(says(TEXT))
    server = await connect(engine, ServeSettings(api_key="alice-key,bob-key"))
    for key in ("alice-key", "bob-key"):
        async with openai_client(server, key) as client:
            await client.chat.completions.create(model="demo", messages=MESSAGES)
    async with openai_client(server, "mallory-key") as client:
        with pytest.raises(openai.AuthenticationError, match="not known"):
            await client.chat.completions.create(model="demo", messages=MESSAGES)
    assert len({request.cache_salt for request in engine.submitted}) == 2
    for header in ("x-api-key", "api-key"):  # Anthropic's clients, Azure's
        models = "/v1/models"
        assert (await server.get(models, headers={header: "alice-key"})).status_code == 200
        assert (await server.get(models, headers={header: "mallory-key"})).status_code == 401
    assert (await server.get("/health")).status_code == 200
    assert (await server.get("/metrics")).status_code == 401
    assert (await server.get("/v1/models")).headers["www-authenticate"] == "Bearer"


async def test_an_error_in_the_middle_is_raised_by_the_client(connect: Connect) -> None:
    engine = FakeEngine(says(TEXT), manual=True)
    async with openai_client(await connect(engine)) as client:
        stream = await client.chat.completions.create(model="demo", messages=MESSAGES, stream=True)
        engine.allow(2)
        seen = [(await anext(stream)).choices[0].delta.content for _ in range(3)]
        engine.die(EngineDead("out of memory"))
        with pytest.raises(openai.APIError, match="out of memory"):
            async for chunk in stream:
                seen.append(chunk.choices[0].delta.content)
    assert "".join(text or "" for text in seen) == "Pa"


async def test_a_prompt_is_echoed_with_its_log_probabilities(connect: Connect) -> None:
    async with openai_client(await connect(FakeEngine(says(TEXT)))) as client:
        completion = await client.completions.create(
            model="demo", prompt="Hi", echo=True, logprobs=1, max_tokens=0
        )
    (choice,) = completion.choices
    assert (choice.text, choice.finish_reason) == ("Hi", "length")
    assert choice.logprobs is not None and choice.logprobs.tokens == ["H", "i"]
    assert choice.logprobs.token_logprobs == [None, -0.5]


async def test_conversations_are_counted_and_compacted(connect_stored: Connect) -> None:
    async with openai_client(await connect_stored(FakeEngine(says(TEXT)))) as client:
        counted = await client.responses.input_tokens.count(model="demo", input="Hi")
        answer = await client.responses.create(model="demo", input="Hi")
        compacted = await client.responses.compact(model="demo", previous_response_id=answer.id)
        given = [item.model_dump() for item in compacted.output]
        again = await client.responses.create(model="demo", input=given)  # type: ignore[arg-type]
    assert answer.usage is not None and counted.input_tokens == answer.usage.input_tokens
    assert [item.type for item in compacted.output] == ["compaction"]
    assert again.output_text == TEXT
