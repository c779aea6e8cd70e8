"""Answers that keep to a grammar, over every interface, of a model that knows nothing."""

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import grpc
import httpx
import openai
import pytest
from pydantic import BaseModel, Field

import llamastream.grammar.compiling as compiling
from llamastream.engine.async_engine import AsyncEngine
from llamastream.generation import NewAnswer, StoredAnswers
from llamastream.sampling import SamplingParams
from llamastream.types import ChatRequest, FinishReason, GrammarKind, GrammarSpec, Message
from tests.api.conftest import Connect, openai_client
from tests.api.sse import chat_body, content_of, events
from tests.api.test_responses_socket import hear, open_socket, say
from tests.doubles.answer_kinds import PET, TEXT_FORMAT
from tests.doubles.jina_servers import grpc_port
from tests.doubles.service import make_responses, make_service
from tests.doubles.tiny_engine import tiny_engine
from tests.doubles.waiting import LIMIT_S, until
from tests.jina_wire.test_grpc_server import call_bytes, connect, stream_doc, texts

RELAXED = PET | {"not": {"properties": {"age": {"const": 1000}}, "required": ["age"]}}
TEXT = json.dumps(PET)
FORMAT = {"type": "json_schema", "json_schema": {"name": "pet", "schema": PET, "strict": True}}


def fits(text: str) -> bool:
    pet = json.loads(text)
    return (
        list(pet) == ["sort", "age", "name"]
        and pet["sort"] in ("cat", "dog")
        and 0 <= pet["age"] <= 99
        and len(pet["name"]) <= 5
        and " " not in text.replace(pet["name"], "")
    )


@pytest.fixture
async def engine() -> AsyncIterator[AsyncEngine]:
    yield tiny_engine()


@pytest.fixture
async def server(engine: AsyncEngine, connect_stored: Connect) -> httpx.AsyncClient:
    client = await connect_stored(engine)
    await engine.ready()
    return client


async def ask(server: httpx.AsyncClient, path: str, **fields: Any) -> dict[str, Any]:
    answer = await server.post(f"/v1/{path}", json=fields)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def refusal(server: httpx.AsyncClient, path: str, **fields: Any) -> tuple[str, str]:
    answer = await server.post(f"/v1/{path}", json=fields)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    return error["param"], error["message"]


OPTIONS: dict[str, tuple[dict[str, Any], str]] = {  # the options, and what an answer fully matches
    "json_schema": ({"response_format": FORMAT}, r"\{.*\}"),
    "json_object": ({"response_format": {"type": "json_object"}, "max_tokens": 6}, r"\{.*"),
    "structured json": ({"structured_outputs": {"json": PET}}, r"\{.*\}"),
    "structured text": ({"structured_outputs": {"json": TEXT}}, r"\{.*\}"),
    "structured regex": ({"structured_outputs": {"regex": "[a-c]{4}"}}, "[a-c]{4}"),
    "structured choice": ({"structured_outputs": {"choice": ["x y", "z"]}}, "x y|z"),
    "structured grammar": (
        {"structured_outputs": {"grammar": 'start: "a" b\nb: /[0-9]/'}},
        "a[0-9]",
    ),
    "structured object": ({"structured_outputs": {"json_object": True}, "max_tokens": 6}, r"\{.*"),
    "guided_json": ({"guided_json": PET}, r"\{.*\}"),
    "guided_regex": ({"guided_regex": "^[a-c]{4}$"}, "[a-c]{4}"),
    "guided_choice": ({"guided_choice": ["yes", "no"]}, "yes|no"),
    "guided_grammar": ({"guided_grammar": 'root ::= "yes" | "no"'}, "yes|no"),
}


@pytest.mark.parametrize("name", OPTIONS)
async def test_every_option_in_chats_completions_and_responses(
    server: httpx.AsyncClient, name: str
) -> None:
    options, pattern = OPTIONS[name]
    common = {"model": "demo", "temperature": 1.5, "seed": 3} | options
    limit = {"max_tokens": 200} | {k: v for k, v in options.items() if k == "max_tokens"}
    common.pop("max_tokens", None)
    messages = [{"role": "user", "content": "Hi"}]
    found = []
    chat = (await ask(server, "chat/completions", messages=messages, **common, **limit))["choices"]
    found.append(chat[0]["message"]["content"])
    text = (await ask(server, "completions", prompt="Hi", **common, **limit))["choices"]
    found.append(text[0]["text"])
    if "response_format" not in options:
        asked = {"input": "Hi", "max_output_tokens": limit["max_tokens"]}
        response = await ask(server, "responses", **common, **asked)
        found.append(response["output"][0]["content"][0]["text"])
    for answer in found:
        assert re.fullmatch(pattern, answer, re.DOTALL), answer
        if pattern == r"\{.*\}":
            assert fits(answer)


@pytest.mark.parametrize("temperature", [0.0, 2.0])
async def test_streamed_and_whole_are_the_same(
    server: httpx.AsyncClient, temperature: float
) -> None:
    options = {"temperature": temperature, "seed": 5, "max_tokens": 200, "response_format": FORMAT}
    whole = (await ask(server, "chat/completions", **chat_body(**options)))["choices"][0]
    assert fits(whole["message"]["content"]) and whole["finish_reason"] == "stop"
    streamed = await server.post("/v1/chat/completions", json=chat_body(stream=True, **options))
    assert content_of(events(streamed.text)) == whole["message"]["content"]
    assert "warnings" not in streamed.text


async def test_a_response_repeats_its_format_and_is_read_again(server: httpx.AsyncClient) -> None:
    body = {"model": "demo", "input": "Hi", "text": {"format": TEXT_FORMAT}, "seed": 1}
    response = await ask(server, "responses", **body)
    assert response["text"]["format"] == TEXT_FORMAT | {"description": None}
    assert fits(response["output"][0]["content"][0]["text"])
    assert (await server.get(f"/v1/responses/{response['id']}")).json() == response
    text = (await server.get(f"/v1/responses/{response['id']}?stream=true")).text
    lines = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    shown = [event["response"]["text"] for event in lines if "response" in event]
    assert shown == [response["text"]] * 3
    plain = await ask(server, "responses", **body | {"text": {"format": {"type": "json_object"}}})
    assert plain["text"] == {"format": {"type": "json_object"}}


async def test_over_a_websocket(server: httpx.AsyncClient) -> None:
    async with open_socket(server) as socket:
        fields = {"model": "demo", "input": "Hi", "text": {"format": TEXT_FORMAT}, "store": False}
        await say(socket, "response.create", **fields)
        heard = await hear(socket)
        deltas = [e["delta"] for e in heard if e["type"] == "response.output_text.delta"]
        assert fits("".join(deltas)) and heard[-1]["type"] == "response.completed"
        await say(socket, "response.create", **fields | {"text": {"format": {"type": "json"}}})
        assert (await hear(socket))[-1]["error"]["param"] == "text.format.type"


async def test_in_jina_documents_over_http_and_grpc(
    server: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    document = {"prompt": "Hi", "max_tokens": 200, "json_schema": TEXT}
    answer = await server.post("/stream", json=document)
    pieces = [
        json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")
    ]
    assert fits("".join(piece["generated_text"] for piece in pieces))
    service = make_service(tiny_engine())
    await service.start()
    await service.dispatcher.engine.ready()
    async with grpc_port(service) as port, connect(port) as channel:
        assert fits("".join(await texts(stream_doc(channel, call_bytes(**document)))))
        broken = call_bytes(**document | {"json_schema": '{"not":{}}'})
        with pytest.raises(grpc.aio.AioRpcError, match="json_schema cannot be enforced"):
            await texts(stream_doc(channel, broken))
    await service.stop()


async def test_the_official_client_parses_into_a_class(server: httpx.AsyncClient) -> None:
    class Pet(BaseModel):
        sort: Literal["cat", "dog"]
        names: Annotated[list[Literal["Tom", "Bo"]], Field(max_length=2)]

    small = {"type": "json_schema", "name": "n", "schema": {"enum": [1, 2]}, "strict": True}
    async with openai_client(server) as client:
        answer = await client.chat.completions.parse(
            model="demo", messages=[{"role": "user", "content": "Hi"}], response_format=Pet
        )
        assert isinstance(answer.choices[0].message.parsed, Pet)
        response = await client.responses.create(
            model="demo",
            input="Hi",
            text={"format": small},  # type: ignore[arg-type]
        )
        assert json.loads(response.output_text) in (1, 2)


async def test_all_choices_of_all_prompts_keep_to_it(server: httpx.AsyncClient) -> None:
    fields = {"model": "demo", "n": 3, "temperature": 2.0, "seed": 1, "max_tokens": 200}
    prompts = {"prompt": ["Hi", "You", "<s>"], "response_format": FORMAT}
    answer = await ask(server, "completions", **fields, **prompts)
    found = [choice["text"] for choice in answer["choices"]]
    assert len(found) == 9 and all(map(fits, found)) and len(set(found)) > 1


async def test_what_chooses_among_the_allowed_revives_nothing(server: httpx.AsyncClient) -> None:
    options = {
        "logit_bias": {str(ord("x")): 100, "257": 100},  # a letter, and the end of the turn
        "frequency_penalty": 2.0,
        "repetition_penalty": 1.5,
        "top_k": 1,
        "min_p": 1.0,
        "max_tokens": 200,
        "logprobs": True,
        "top_logprobs": 2,
    }
    answer = await ask(server, "chat/completions", **chat_body(response_format=FORMAT, **options))
    choice = answer["choices"][0]
    assert fits(choice["message"]["content"])
    entries = choice["logprobs"]["content"]
    forbidden = [e for e in entries if e["logprob"] < min(t["logprob"] for t in e["top_logprobs"])]
    assert forbidden, "log-probabilities are those of the model without the grammar"


async def test_a_stop_string_may_cut_it(server: httpx.AsyncClient) -> None:
    options = {"response_format": FORMAT, "stop": '"age"', "max_tokens": 200}
    choice = (await ask(server, "chat/completions", **chat_body(**options)))["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["content"] in ('{"sort":"cat",', '{"sort":"dog",')


async def test_max_tokens_leaves_the_beginning(server: httpx.AsyncClient) -> None:
    options = {"response_format": FORMAT, "max_tokens": 9}
    choice = (await ask(server, "chat/completions", **chat_body(**options)))["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"] == '{"sort":"'


async def test_what_asks_for_nothing(server: httpx.AsyncClient) -> None:
    nothing = {
        "response_format": {"type": "text"},
        "structured_outputs": {"json": None, "choice": []},
        "guided_json": None,
        "guided_choice": [],
        "guided_regex": None,
    }
    plain = chat_body(max_tokens=9, temperature=1.0, seed=1)
    with_them = await ask(server, "chat/completions", **plain, **nothing)
    without = await ask(server, "chat/completions", **plain)
    assert with_them["choices"] == without["choices"]


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"response_format": FORMAT, "ignore_eos": True}, "ignore_eos", "exclude each other"),
    (
        {"guided_regex": "a", "continue_final_message": True, "add_generation_prompt": False},
        "continue_final_message",
        "exclude each other",
    ),
    ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice", "guided_regex and guided_c"),
    ({"guided_regex": "a", "response_format": FORMAT}, "guided_regex", "response_format and"),
    (
        {"structured_outputs": {"regex": "a", "json_object": True}},
        "structured_outputs.json_object",
        "exclude each other",
    ),
    (
        {"structured_outputs": {"structural_tag": "x"}},
        "structured_outputs.structural_tag",
        "Unknown",
    ),
    ({"response_format": {"type": "grammar"}}, "response_format.type", "must be"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "is required"),
    (
        {"response_format": FORMAT | {"type": "json_object"}},
        "response_format.json_schema",
        "needs `type: json_schema`",
    ),
    ({"guided_json": "{"}, "guided_json", "must be JSON"),
    ({"guided_json": {"not": {"type": "null"}}}, "guided_json", 'unsupported keywords ["not"]'),
    ({"guided_regex": "("}, "guided_regex", "cannot be enforced"),
    ({"guided_regex": "(a{1000}){1000}"}, "guided_regex", "<= 10000 times"),
    ({"guided_choice": [""]}, "guided_choice[0]", "at least 1 character"),
    ({"guided_grammar": "start: nothing"}, "guided_grammar", "cannot be enforced"),
    ({"guided_decoding_backend": "outlines"}, "guided_decoding_backend", "Unknown option"),
]


@pytest.mark.parametrize(("options", "param", "words"), REFUSED)
async def test_what_is_refused_names_the_option(
    server: httpx.AsyncClient, options: dict[str, Any], param: str, words: str
) -> None:
    found, message = await refusal(server, "chat/completions", **chat_body(**options))
    assert found == param and words in message


async def test_what_is_not_strict_is_named_in_warnings(server: httpx.AsyncClient) -> None:
    """Whole and streamed, stored and not, and read again."""
    relaxed = {"name": "pet", "schema": RELAXED}
    body = chat_body(
        response_format={"type": "json_schema", "json_schema": relaxed}, seed=1, max_tokens=200
    )
    warnings = ['Not enforced: unsupported keywords ["not"]']
    whole = await ask(server, "chat/completions", **body, store=True)
    assert whole["warnings"] == warnings and fits(whole["choices"][0]["message"]["content"])
    assert (await server.get(f"/v1/chat/completions/{whole['id']}")).json()["warnings"] == warnings
    streamed = await server.post("/v1/chat/completions", json=body | {"stream": True})
    *_, last, done = events(streamed.text)
    assert (last["warnings"], last["choices"], done) == (warnings, [], "[DONE]")
    cut = await ask(server, "chat/completions", **body | {"max_tokens": 3})
    problem = "The answer does not fit the schema: it is no JSON, having ended early"
    assert cut["warnings"] == [*warnings, problem]
    text = {"format": {"type": "json_schema", **relaxed}}
    response = await ask(server, "responses", model="demo", input="Hi", text=text, seed=1)
    assert response["warnings"] == warnings
    assert (await server.get(f"/v1/responses/{response['id']}")).json() == response


async def test_an_idempotency_key_finds_the_same_answer(server: httpx.AsyncClient) -> None:
    body = {"model": "demo", "input": "Hi", "text": {"format": TEXT_FORMAT}, "temperature": 2.0}
    headers = {"Idempotency-Key": "k"}
    first, again = [
        (await server.post("/v1/responses", json=body, headers=headers)).json() for _ in range(2)
    ]
    assert first == again and fits(first["output"][0]["content"][0]["text"])
    other = body | {"text": {"format": {"type": "json_object"}}}
    assert (await server.post("/v1/responses", json=other, headers=headers)).status_code == 400


async def test_a_schema_that_takes_long_to_compile_holds_up_nobody_else(
    server: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile, reached, go_on = compiling._compile, threading.Event(), threading.Event()

    def wait(spec: GrammarSpec, *others: Any) -> compiling.Compiled:
        reached.set()
        assert go_on.wait(LIMIT_S)
        return compile(spec, *others)

    monkeypatch.setattr(compiling, "_compile", wait)
    slow = asyncio.create_task(
        ask(server, "chat/completions", **chat_body(guided_choice=["yes", "no"]))
    )
    await until(reached.is_set)
    await ask(server, "chat/completions", **chat_body(max_tokens=1))
    assert not slow.done()
    go_on.set()
    assert (await slow)["choices"][0]["message"]["content"] in ("yes", "no")


REQUEST = ChatRequest(
    (Message("user", "Hi"),),
    sampling=SamplingParams(max_tokens=200, temperature=2.0, seed=11),
    grammar=GrammarSpec(GrammarKind.JSON_SCHEMA, TEXT),
)


# So long that no machine is at its end when somebody looks at its beginning.
LONG = replace(
    REQUEST, grammar=GrammarSpec(GrammarKind.JSON_SCHEMA, '{"type": "string", "minLength": 500}')
)


async def interrupted(folder: Path, *, at: int, request: ChatRequest = REQUEST) -> tuple[str, str]:
    """A stored answer that is whole, and the id of one like it that a server left at `at`."""
    service, whole = make_service(tiny_engine()), ""
    stored = make_responses(service, folder)
    await service.start()
    await service.dispatcher.engine.ready()
    await stored.start()
    generation = await stored.create(request, NewAnswer("whole", store=True, background=True))
    await generation.over()
    whole = generation.log.text()
    left = await stored.create(request, NewAnswer("left", store=True, background=True))
    await until(lambda: left.num_public >= at)
    await service.stop()
    await stored.stop()
    return whole, left.id


async def gone_on(folder: Path, id: str) -> tuple[str, str | None, FinishReason | None]:
    """What a new server makes of it: text, error and how it ended."""
    service = make_service(tiny_engine(speculation="off"))
    stored: StoredAnswers = make_responses(service, folder)
    await service.start()
    await stored.start()
    generation = await stored.find(id, scope="")
    await generation.over()
    await until(lambda: generation.end is not None)
    found = await stored.find(id, scope="")
    assert found.end is not None
    reason = found.choices[0].finish_reason
    await service.stop()
    await stored.stop()
    return found.log.text(), found.end.error, reason


@pytest.mark.parametrize("at", [1, 9, 17])
async def test_an_answer_goes_on_after_a_restart_with_the_same_text(
    tmp_path: Path, at: int
) -> None:
    whole, id = await interrupted(tmp_path, at=at)
    text, error, reason = await gone_on(tmp_path, id)
    assert (text, error, reason) == (whole, None, FinishReason.STOP) and fits(text)


async def test_another_version_of_the_grammars_fails_the_answer_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, id = await interrupted(tmp_path, at=5, request=LONG)
    monkeypatch.setattr(compiling, "version_of", lambda kind: "llguidance@99")
    _, error, _ = await gone_on(tmp_path, id)
    assert error is not None and "begun with the grammars of llguidance@1" in error


async def test_what_gets_too_complex_ends_with_an_error(server: httpx.AsyncClient) -> None:
    body = chat_body(guided_regex="(a?){500}a{500}", max_tokens=900)
    answer = await server.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert "guided_regex: the answer cannot go on" in answer.json()["error"]["message"]
    async with openai_client(server) as client:
        stream = await client.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": "Hi"}],
            stream=True,
            extra_body={"guided_regex": "(a?){500}a{500}"},
        )
        with pytest.raises(openai.APIError, match="cannot go on"):
            async for _ in stream:
                pass
