"""/v1/responses: events by the specification, the same for every reader, from any number on."""

import json
from typing import Any

import httpx
import pytest

from llamastream.config import ServeSettings
from llamastream.errors import InternalError
from llamastream.generation import StorePolicy
from tests.api.conftest import Connect
from tests.api.response_schemas import check_event, check_response
from tests.doubles.engine import FakeEngine
from tests.doubles.service import says
from tests.doubles.waiting import until

TEXT = "Paris, é 😀."
OPENING = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
]
CLOSING = ["response.output_text.done", "response.content_part.done", "response.output_item.done"]
KEYS = ServeSettings(api_key="alice,bob")


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "demo", "input": "Capital of France?"} | fields


def part_of_type(kind: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": kind}]}]


async def stream(client: httpx.AsyncClient, **fields: Any) -> str:
    answer = await client.post("/v1/responses", json=body(stream=True, **fields))
    assert answer.status_code == 200, answer.text
    return answer.text


async def begin(client: httpx.AsyncClient) -> dict[str, Any]:
    """A response that goes on without a reader."""
    answer = await client.post("/v1/responses", json=body(background=True))
    return dict(answer.json())


def events_of(text: str) -> list[dict[str, Any]]:
    """The events of a whole stream, each checked against the specification."""
    blocks = text.removesuffix("data: [DONE]\n\n").split("\n\n")[:-1]
    found = []
    for block in blocks:
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        check_event(event)
        found.append(event)
    return found


def id_of(text: str) -> str:
    return str(events_of(text)[0]["response"]["id"])


@pytest.mark.parametrize("store", [True, False])
async def test_events_come_in_the_specifications_order(
    connect_stored: Connect, store: bool
) -> None:
    client = await connect_stored(FakeEngine(says(TEXT)))
    text = await stream(client, store=store)
    assert text.endswith("data: [DONE]\n\n")
    events = events_of(text)
    deltas = [e["delta"] for e in events if e["type"] == "response.output_text.delta"]
    assert "".join(deltas) == TEXT
    kinds = [event["type"] for event in events]
    expected = ["response.output_text.delta"] * len(deltas)
    assert kinds == OPENING + expected + [*CLOSING, "response.completed"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    final = events[-1]["response"]
    assert final["output"][0]["content"][0]["text"] == TEXT
    assert final["usage"]["output_tokens"] == len(TEXT.encode()) + 1
    assert final["store"] is store


async def test_each_token_is_one_event_also_where_it_shows_nothing(connect_stored: Connect) -> None:
    client = await connect_stored(FakeEngine(says("😀")))
    events = events_of(await stream(client, return_token_ids=True))
    deltas = [e for e in events if e["type"] == "response.output_text.delta"]
    assert [e["delta"] for e in deltas] == ["", "", "", "😀", ""]
    assert [e["token_ids"] for e in deltas] == [[i] for i in "😀".encode()] + [[257]]


async def test_a_reader_may_come_again_from_any_event_and_gets_the_same_bytes(
    connect_stored: Connect,
) -> None:
    client = await connect_stored(FakeEngine(says(TEXT)))
    text = await stream(client)
    path = f"/v1/responses/{id_of(text)}?stream=true"
    assert (await client.get(path)).text == text
    blocks = text.split("\n\n")
    for after in range(len(events_of(text)) - 1):
        expected = "\n\n".join(blocks[after + 1 :])
        assert (await client.get(f"{path}&starting_after={after}")).text == expected
        header = {"Last-Event-ID": str(after)}
        assert (await client.get(path, headers=header)).text == expected


async def test_beyond_the_end_there_is_the_last_event_only(connect_stored: Connect) -> None:
    client = await connect_stored(FakeEngine(says(TEXT)))
    text = await stream(client)
    for after in (len(events_of(text)) - 1, 10**12):
        path = f"/v1/responses/{id_of(text)}?stream=true&starting_after={after}"
        assert events_of((await client.get(path)).text) == events_of(text)[-1:]


async def test_a_reader_ahead_of_the_journal_waits_for_what_it_has_not_seen(
    connect_stored: Connect,
) -> None:
    engine = FakeEngine(says("abcdef"), manual=True)
    client = await connect_stored(engine)
    created = await begin(client)
    engine.allow(2)
    path = f"/v1/responses/{created['id']}?stream=true&starting_after=7"
    async with client.stream("GET", path) as answer:
        engine.allow(100)
        events = events_of((await answer.aread()).decode())
    assert events[0]["sequence_number"] == 8
    assert events[0]["delta"] == "e"


async def test_a_whole_answer_and_what_is_retrieved_later_are_the_same(
    connect_stored: Connect,
) -> None:
    client = await connect_stored(FakeEngine(says(TEXT)))
    answer = await client.post("/v1/responses", json=body(metadata={"a": "b"}))
    check_response(answer.json())
    assert answer.json()["status"] == "completed"
    assert answer.json()["metadata"] == {"a": "b"}
    later = await client.get(f"/v1/responses/{answer.json()['id']}")
    assert later.json() == answer.json()


async def test_an_answer_cut_at_its_limit_is_incomplete(connect_stored: Connect) -> None:
    client = await connect_stored(FakeEngine(says(TEXT)))
    last = events_of(await stream(client, max_output_tokens=3))[-1]
    assert last["type"] == "response.incomplete"
    assert last["response"]["status"] == "incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert last["response"]["output"][0]["status"] == "incomplete"


async def test_a_failed_answer_says_why(connect_stored: Connect) -> None:
    engine = FakeEngine(says(TEXT), manual=True)
    client = await connect_stored(engine)
    created = await begin(client)
    engine.fail(created["id"], InternalError("the runner failed"))
    text = (await client.get(f"/v1/responses/{created['id']}?stream=true")).text
    last = events_of(text)[-1]
    assert last["type"] == "response.failed"
    assert last["response"]["error"]["message"] == "the runner failed"
    retrieved = (await client.get(f"/v1/responses/{created['id']}")).json()
    assert retrieved == last["response"]


async def test_cancelling_ends_an_answer_and_its_readers_see_it(connect_stored: Connect) -> None:
    engine = FakeEngine(says("x" * 100), manual=True)
    client = await connect_stored(engine)
    created = await begin(client)
    engine.allow(3)
    await until(lambda: engine.num_steps == 3)
    cancelled = await client.post(f"/v1/responses/{created['id']}/cancel")
    check_response(cancelled.json())
    assert cancelled.json()["status"] == "cancelled"
    assert cancelled.json()["output"][0]["content"][0]["text"] == "xxx"
    assert engine.num_alive == 0
    again = await client.post(f"/v1/responses/{created['id']}/cancel")
    assert again.json() == cancelled.json()
    text = (await client.get(f"/v1/responses/{created['id']}?stream=true")).text
    assert events_of(text)[-1]["response"]["status"] == "cancelled"


async def test_log_probabilities_come_when_they_are_included(connect_stored: Connect) -> None:
    client = await connect_stored(FakeEngine(says("ab")))
    include = ["message.output_text.logprobs"]
    text = await stream(client, include=include, top_logprobs=2)
    events = events_of(text)
    first = events[4]["logprobs"][0]
    assert (first["token"], first["bytes"], first["logprob"]) == ("a", [97], -0.5)
    assert len(first["top_logprobs"]) == 2
    done = next(e for e in events if e["type"] == "response.output_text.done")
    assert len(done["logprobs"]) == 3
    again = await client.get(f"/v1/responses/{id_of(text)}?stream=true")
    assert again.text == text


async def test_an_answer_that_nobody_follows_ends_after_the_grace_period(
    connect_stored: Connect,
) -> None:
    engine = FakeEngine(says("x" * 1000), manual=True)
    client = await connect_stored(engine, None, StorePolicy(grace_s=0.05))
    async with client.stream("POST", "/v1/responses", json=body(stream=True)) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                id = json.loads(line.removeprefix("data: "))["response"]["id"]
                break
    background = await begin(client)
    await until(lambda: engine.cancelled)
    assert engine.cancelled == [id]
    text = (await client.get(f"/v1/responses/{id}?stream=true")).text
    assert events_of(text)[-1]["response"]["status"] == "cancelled"
    found = (await client.get(f"/v1/responses/{background['id']}")).json()
    assert found["status"] == "in_progress"


async def test_an_answer_goes_on_when_its_reader_is_back_in_time(connect_stored: Connect) -> None:
    engine = FakeEngine(says("abc"), manual=True)
    client = await connect_stored(engine)
    async with client.stream("POST", "/v1/responses", json=body(stream=True)) as answer:
        first = await anext(aiter(answer.aiter_text()))
    engine.allow(10)
    id = events_of(first)[0]["response"]["id"]
    answer = await client.get(f"/v1/responses/{id}?stream=true&starting_after=1")
    assert events_of(answer.text)[-1]["type"] == "response.completed"


async def test_a_reader_that_does_not_read_holds_up_nobody(connect_stored: Connect) -> None:
    long = "x" * 20_000
    client = await connect_stored(FakeEngine(says(long), max_model_len=50_000))
    created = await begin(client)
    path = f"/v1/responses/{created['id']}?stream=true"
    async with client.stream("GET", path) as slow:
        quick = (await client.get(path)).text
        assert events_of(quick)[-1]["response"]["output"][0]["content"][0]["text"] == long
        assert (await slow.aread()).decode() == quick


async def test_unknown_foreign_and_deleted_are_answered_alike(connect_stored: Connect) -> None:
    client = await connect_stored(FakeEngine(says(TEXT)), KEYS)
    alice, bob = ({"Authorization": f"Bearer {name}"} for name in ("alice", "bob"))
    ids = [
        (await client.post("/v1/responses", json=body(), headers=alice)).json()["id"]
        for _ in range(2)
    ]
    await client.delete(f"/v1/responses/{ids[0]}", headers=alice)
    for id, caller in ((ids[0], alice), (ids[1], bob), ("resp_unknown", alice)):
        for method, path in (
            ("GET", id),
            ("GET", f"{id}?stream=true"),
            ("GET", f"{id}/input_items"),
            ("POST", f"{id}/cancel"),
            ("DELETE", id),
        ):
            answer = await client.request(method, f"/v1/responses/{path}", headers=caller)
            assert answer.status_code == 404, (method, path)
            error = answer.json()["error"]
            assert error["message"] == f"Response {id!r} not found."
            assert error["code"] == "not_found"
        answer = await client.post(
            "/v1/responses", json=body(previous_response_id=id), headers=caller
        )
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert error["param"] == "previous_response_id"
        assert error["code"] == "previous_response_not_found"
    for conversation in ("conv_unknown", {"id": "conv_unknown"}, ""):
        answer = await client.post(
            "/v1/responses", json=body(conversation=conversation), headers=alice
        )
        assert answer.status_code == 404
        assert answer.json()["error"]["param"] == "conversation"
    assert (await client.get(f"/v1/responses/{ids[1]}", headers=alice)).status_code == 200


async def test_deleting_ends_what_is_in_progress(connect_stored: Connect) -> None:
    engine = FakeEngine(says("abc"), manual=True)
    client = await connect_stored(engine)
    created = await begin(client)
    assert (await client.delete(f"/v1/responses/{created['id']}")).json()["deleted"] is True
    await until(lambda: engine.num_alive == 0)
    assert (await client.get(f"/v1/responses/{created['id']}")).status_code == 404


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"reasoning": {"effort": "high"}}, "reasoning.effort"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"text": {"format": {"type": "json"}}}, "text.format.type"),
        ({"include": ["secrets"]}, "include[0]"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"conversation": "c", "previous_response_id": "r"}, "previous_response_id"),
        ({"store": False, "background": True}, "background"),
        ({"store": False, "conversation": "c"}, "conversation"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"metadata": {"k": 1}}, "metadata.k"),
        ({"surprise": 1}, "surprise"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 3}, "input"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": part_of_type("input_image")}, "input[0].content[0].type"),
        ({"input": part_of_type("input_text")}, "input[0].content[0].text"),
    ],
)  # fmt: skip
async def test_what_is_not_done_is_refused_by_name(
    connect_stored: Connect, fields: dict[str, Any], param: str
) -> None:
    engine = FakeEngine(says(TEXT))
    client = await connect_stored(engine)
    answer = await client.post("/v1/responses", json=body(**fields))
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert engine.submitted == []


@pytest.mark.parametrize(
    "query", ["starting_after=3", "stream=true&starting_after=-1", "stream=maybe", "bogus=1",
              "stream=true&starting_after=1&starting_after=2", "include=x",
              "stream=true&include_obfuscation=true", "include_obfuscation=x"],
)  # fmt: skip
async def test_a_bad_query_is_refused(connect_stored: Connect, query: str) -> None:
    client = await connect_stored(FakeEngine(says(TEXT)))
    id = id_of(await stream(client))
    answer = await client.get(f"/v1/responses/{id}?{query}")
    assert answer.status_code == 400, answer.text


async def test_an_idempotency_key_begins_one_answer(connect_stored: Connect) -> None:
    engine = FakeEngine(says(TEXT))
    client = await connect_stored(engine)
    header = {"Idempotency-Key": "once"}
    first = await client.post("/v1/responses", json=body(), headers=header)
    again = await client.post("/v1/responses", json=body(stream=True), headers=header)
    assert events_of(again.text)[-1]["response"] == first.json()
    assert (await client.post("/v1/responses", json=body(), headers=header)).json() == first.json()
    other = await client.post("/v1/responses", json=body(temperature=0.5), headers=header)
    assert other.status_code == 400
    assert other.json()["error"]["code"] == "idempotency_conflict"
    begun = {request.request_id for request in engine.submitted}
    found = [(await client.get(f"/v1/responses/{id}")).status_code for id in begun]
    assert sorted(found) == [200, *[404] * (len(begun) - 1)]


async def test_input_items_come_in_pages(connect_stored: Connect) -> None:
    client = await connect_stored(FakeEngine(says(TEXT)))
    messages = [{"role": "user", "content": f"message {k}"} for k in range(5)]
    created = (await client.post("/v1/responses", json=body(input=messages))).json()
    path = f"/v1/responses/{created['id']}/input_items?order=asc&limit=2"
    seen, page = [], (await client.get(path)).json()
    while True:
        seen += [item["content"][0]["text"] for item in page["data"]]
        if not page["has_more"]:
            break
        page = (await client.get(f"{path}&after={page['last_id']}")).json()
    assert seen == [f"message {k}" for k in range(5)]
    assert (await client.get(path.replace("limit=2", "limit=101"))).status_code == 400


async def test_a_reference_stands_for_the_message_of_a_response(connect_stored: Connect) -> None:
    engine = FakeEngine(says(TEXT))
    client = await connect_stored(engine, KEYS)
    alice, bob = ({"Authorization": f"Bearer {name}"} for name in ("alice", "bob"))
    first = (await client.post("/v1/responses", json=body(), headers=alice)).json()
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    said = [{"role": "user", "content": "Hi"}, reference, {"role": "user", "content": "More"}]
    answer = await client.post("/v1/responses", json=body(input=said), headers=alice)
    written = [said[0], {"role": "assistant", "content": TEXT}, said[2]]
    await client.post("/v1/responses", json=body(input=written), headers=alice)
    assert answer.json()["status"] == "completed"
    assert engine.submitted[1].prompt_ids == engine.submitted[2].prompt_ids
    for headers, ids in ((bob, [reference["id"]]), (alice, ["msg_unknown", "f", ""])):
        for id in ids:
            given = [{"type": "item_reference", "id": id}]
            refused = await client.post("/v1/responses", json=body(input=given), headers=headers)
            assert (refused.status_code, refused.json()["error"]["param"]) == (404, "input[0].id")
    many = await client.post("/v1/responses", json=body(input=[reference] * 257), headers=alice)
    assert many.status_code == 400 and "<= 256" in many.json()["error"]["message"]
