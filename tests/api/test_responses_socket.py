"""/v1/responses over WebSocket: the events of HTTP, many responses on one socket."""

import json
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from llamastream.api.socket import MAX_WAITING
from llamastream.config import ServeSettings
from llamastream.types import GenerationRequest
from tests.api.conftest import Connect
from tests.api.response_schemas import check_event
from tests.api.test_responses import events_of
from tests.doubles.engine import FakeEngine
from tests.doubles.service import last_user_words, says
from tests.doubles.tokenizer import IM_END
from tests.doubles.waiting import until

LAST = ("response.completed", "response.incomplete", "response.failed", "error")


def open_socket(server: httpx.AsyncClient, **options: Any) -> connect:
    url = str(server.base_url).replace("http", "ws", 1)
    return connect(f"{url}/v1/responses", compression=None, **options)


async def say(socket: ClientConnection, kind: str, **fields: Any) -> None:
    await socket.send(json.dumps({"type": kind} | fields))


async def hear(socket: ClientConnection) -> list[dict[str, Any]]:
    """Events up to the end of one response."""
    events: list[dict[str, Any]] = []
    while not events or events[-1]["type"] not in LAST:
        events.append(json.loads(await socket.recv()))
    return events


async def test_the_events_are_those_of_http(connect_stored: Connect) -> None:
    server = await connect_stored(FakeEngine(says("Hi é 😀.")))
    async with open_socket(server) as socket:
        await say(socket, "response.create", model="demo", input="Hello")
        events = await hear(socket)
    for event in events:
        check_event(event)
    id = events[0]["response"]["id"]
    assert events_of((await server.get(f"/v1/responses/{id}?stream=true")).text) == events


async def test_lanes_run_beside_each_other_and_name_their_stream(connect_stored: Connect) -> None:
    engine = FakeEngine(last_user_words, manual=True)
    async with open_socket(await connect_stored(engine)) as socket:
        for k in range(4):
            await say(
                socket,
                "response.create",
                model="demo",
                input=f"word {k}",
                stream_id=f"lane {k}",
                store=k % 2 == 0,
            )
        await until(lambda: engine.num_alive == 4)
        engine.allow(100)
        texts: dict[str, str] = {}
        for _ in range(4):
            for event in await hear(socket):
                if event["type"] == "response.output_text.delta":
                    lane = event["stream_id"]
                    texts[lane] = texts.get(lane, "") + event["delta"]
    assert texts == {f"lane {k}": f"word {k}" for k in range(4)}


async def test_a_response_is_resumed_behind_an_event_and_cancelled(connect_stored: Connect) -> None:
    engine = FakeEngine(says("x" * 100), manual=True)
    server = await connect_stored(engine)
    async with open_socket(server) as socket:
        await say(socket, "response.create", model="demo", input="Hello")
        id = json.loads(await socket.recv())["response"]["id"]
    engine.allow(5)
    async with open_socket(server) as socket:
        await say(socket, "response.resume", response_id=id, starting_after=5)
        numbers = [json.loads(await socket.recv())["sequence_number"] for _ in range(3)]
        assert numbers == [6, 7, 8]
        await say(socket, "response.cancel", response_id=id)
        events = await hear(socket)
    assert events[-1]["response"]["status"] == "cancelled"
    assert engine.num_alive == 0


async def test_leaving_stops_what_is_not_stored_only(connect_stored: Connect) -> None:
    engine = FakeEngine(says("x" * 100), manual=True)
    async with open_socket(await connect_stored(engine)) as socket:
        for number, store in enumerate((True, False), 1):
            fields = {"model": "demo", "input": "Hello", "store": store}
            await say(socket, "response.create", stream_id=str(store), **fields)
            await until(lambda n=number: engine.num_alive == n)
    await until(lambda: engine.num_alive == 1)
    assert engine.cancelled == [engine.submitted[1].request_id]


@pytest.mark.parametrize(
    ("message", "status", "param"),
    [
        ("nonsense", 400, None),
        ("[]", 400, None),
        ('{"type": "response.steer"}', 400, "type"),
        ('{"input": "x"}', 400, "type"),
        ('{"type": "response.create", "model": "other", "input": "x"}', 404, "model"),
        ('{"type": "response.create", "model": "demo", "tools": [{}]}', 400, "tools[0].type"),
        ('{"type": "response.create", "model": "demo", "stream": false}', 400, "stream"),
        ('{"type": "response.resume", "response_id": "resp_x"}', 404, "response_id"),
        ('{"type": "response.resume"}', 400, "response_id"),
        ('{"type": "response.cancel", "response_id": "resp_x"}', 404, "response_id"),
    ],
)
async def test_a_bad_message_is_answered_and_the_socket_goes_on(
    connect_stored: Connect, message: str, status: int, param: str | None
) -> None:
    async with open_socket(await connect_stored(FakeEngine(says("Hi")))) as socket:
        await socket.send(message)
        (event,) = await hear(socket)
        assert (event["status"], event["error"]["param"]) == (status, param)
        check_event(event)
        await say(socket, "response.create", model="demo", input="Hello")
        assert (await hear(socket))[-1]["type"] == "response.completed"


@pytest.mark.parametrize("lane", [{}, {"stream_id": "a"}])
async def test_responses_of_one_stream_take_turns(
    connect_stored: Connect, lane: dict[str, str]
) -> None:
    engine = FakeEngine(last_user_words, manual=True)
    async with open_socket(await connect_stored(engine)) as socket:
        for text in ("one", "two", "", "three"):
            await say(socket, "response.create", model="demo", input=text or 3, **lane)
        for number in range(3):
            await until(lambda n=number: len(engine.submitted) == n + 1)
            assert engine.num_alive == 1
            engine.allow(10)
            events = await hear(socket)
            assert all(event.get("stream_id") == lane.get("stream_id") for event in events)
            answer = events[-1]["response"]["output"][0]["content"][0]["text"]
            assert answer == ("one", "two", "three")[number]
            if number == 1:
                (error,) = await hear(socket)
                assert error["error"]["param"] == "input"
    assert len(engine.submitted) == 3


async def test_no_more_wait_for_their_turn_than_may(connect_stored: Connect) -> None:
    engine = FakeEngine(says("Hi"), manual=True)
    async with open_socket(await connect_stored(engine)) as socket:
        for _ in range(MAX_WAITING + 2):
            await say(socket, "response.create", model="demo", input="Hello", stream_id="a")
        events = await hear(socket)
    assert events[-1]["status"] == 429 and events[-1]["stream_id"] == "a"
    await until(lambda: len(engine.submitted) == 1)


async def test_a_resumed_stream_needs_a_name_of_its_own(connect_stored: Connect) -> None:
    engine = FakeEngine(says("Hi"), manual=True)
    async with open_socket(await connect_stored(engine)) as socket:
        await say(socket, "response.create", model="demo", input="Hello", stream_id="a")
        id = json.loads(await socket.recv())["response"]["id"]
        await say(socket, "response.resume", response_id=id, stream_id="a")
        events = await hear(socket)
    assert events[-1]["error"]["param"] == "stream_id"


async def test_what_is_not_stored_goes_on_on_its_own_socket_alone(connect_stored: Connect) -> None:
    engine = FakeEngine(says("Bob."))
    server = await connect_stored(engine)
    asked = {"model": "demo", "store": False, "instructions": "Be short."}
    async with open_socket(server) as socket:
        await say(socket, "response.create", input="I am Bob.", **asked)
        first = (await hear(socket))[-1]["response"]["id"]
        await say(socket, "response.create", input="And I?", previous_response_id=first, **asked)
        second = (await hear(socket))[-1]["response"]
        assert second["previous_response_id"] == first and second["status"] == "completed"
        said = bytes(i for i in engine.submitted[1].prompt_ids if i < 256).decode()
        assert [said.count(text) for text in ("Be short.", "I am Bob.", "Bob.", "And I?")] == [
            *(1, 1, 2, 1)
        ]
        fields = {"model": "demo", "input": "x", "previous_response_id": second["id"]}
        await say(socket, "response.create", **fields)  # what is stored cannot stand on it
        (error,) = await hear(socket)
    async with open_socket(server) as socket:
        await say(socket, "response.create", store=False, **fields)
        (elsewhere,) = await hear(socket)
    over_http = (await server.post("/v1/responses", json=fields)).json()
    for refused in (error, elsewhere, over_http):
        assert refused["error"]["code"] == "previous_response_not_found"
        assert refused["error"]["param"] == "previous_response_id"


async def test_a_binary_message_closes_with_the_code_that_says_so(connect_stored: Connect) -> None:
    async with open_socket(await connect_stored(FakeEngine(says("Hi")))) as socket:
        await socket.send(b"{}")
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1003


async def test_a_socket_needs_the_key(connect_stored: Connect) -> None:
    server = await connect_stored(FakeEngine(says("Hi")), ServeSettings(api_key="alice"))
    with pytest.raises(InvalidStatus) as refused:
        async with open_socket(server):
            pass
    assert refused.value.response.status_code == 401
    headers = {"Authorization": "Bearer alice"}
    async with open_socket(server, additional_headers=headers) as socket:
        await say(socket, "response.create", model="demo", input="Hello")
        assert (await hear(socket))[-1]["type"] == "response.completed"


async def test_the_fields_may_be_in_a_response_of_their_own(connect_stored: Connect) -> None:
    async with open_socket(await connect_stored(FakeEngine(says("Hi.")))) as socket:
        fields = {"model": "demo", "input": "Hello"}
        await say(socket, "response.create", response=fields, event_id="event_1", stream_id="a")
        events = await hear(socket)
        assert events[-1]["type"] == "response.completed"
        assert all(event["stream_id"] == "a" for event in events)
        await say(socket, "response.create", response=fields, temperature=0)
        (error,) = await hear(socket)
        assert error["error"]["param"] == "temperature"


CALL = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
NOW = {"type": "function", "name": "now"}


async def test_an_agents_turns_on_one_socket(connect_stored: Connect) -> None:
    """Calls have the events of HTTP; a reader may come again amid one, and its result goes on."""
    said = iter([f"I look.\n{CALL}\n{CALL}", "Late."])
    answers: dict[str, str] = {}

    def script(request: GenerationRequest) -> list[int]:
        answers.setdefault(request.request_id, next(said, ""))
        return [*answers[request.request_id].encode(), IM_END]

    server = await connect_stored(FakeEngine(script))
    async with open_socket(server) as socket:
        await say(socket, "response.create", model="demo", input="Hello", tools=[NOW])
        events = await hear(socket)
        whole = events[-1]["response"]
        calls = [item for item in whole["output"] if item["type"] == "function_call"]
        assert [(call["name"], call["arguments"]) for call in calls] == [("now", "{}")] * 2
        for event in events:
            check_event(event)
        begun = [e["item"].get("name") for e in events if e["type"] == "response.output_item.added"]
        assert begun == [None, "now", "now"]
        amid = next(e for e in events if e["type"] == "response.function_call_arguments.delta")
        for after in (amid["sequence_number"] - 1, amid["sequence_number"]):
            resume = {"response_id": whole["id"], "starting_after": after}
            await say(socket, "response.resume", **resume)
            assert await hear(socket) == events[after + 1 :]
        results = [
            {"type": "function_call_output", "call_id": call["call_id"], "output": "9"}
            for call in calls
        ]
        fields = {"model": "demo", "previous_response_id": whole["id"], "tools": [NOW]}
        await say(socket, "response.create", input=results, **fields)
        last = (await hear(socket))[-1]["response"]
        assert last["output"][0]["content"][0]["text"] == "Late."
        unknown = results[0] | {"call_id": "call_x"}
        await say(socket, "response.create", input=[unknown], **fields)
        refused = (await hear(socket))[-1]
        assert (refused["type"], refused["status"]) == ("error", 400)
        assert "call_x" in refused["error"]["message"]
