"""One question over every interface, streamed and whole, and what each says of the answer."""

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import httpx
from websockets.asyncio.client import connect

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
Json = dict[str, Any]
LAST = ("response.completed", "response.incomplete", "response.failed", "error")


class Heard(NamedTuple):
    """`calls`: names and arguments. `ids`: of the calls."""

    thought: str
    text: str
    calls: tuple[tuple[str, str], ...]
    ids: tuple[str, ...]


class Question(NamedTuple):
    """In words of no interface. tools: as responses take them. thinks: None of a model that has no
    choice."""

    tools: Sequence[Json]
    choice: str = "auto"
    thinks: bool | None = None


Ask = Callable[[httpx.AsyncClient, Question], Awaitable[Heard]]


async def chat(client: httpx.AsyncClient, asked: Question) -> Heard:
    answer = await _post(client, CHAT, _chat_body(asked))
    message = answer.json()["choices"][0]["message"]
    calls = message.get("tool_calls", ())
    return _heard(
        message.get("reasoning_content"),
        message["content"],
        [(c["function"]["name"], c["function"]["arguments"], c["id"]) for c in calls],
    )


async def chat_streamed(client: httpx.AsyncClient, asked: Question) -> Heard:
    answer = await _post(client, CHAT, _chat_body(asked) | {"stream": True})
    thought, text, calls = "", "", list[list[str]]()
    for event in _data(answer.text):
        delta = event["choices"][0]["delta"]
        thought += delta.get("reasoning_content") or ""
        text += delta.get("content") or ""
        for piece in delta.get("tool_calls", ()):
            if "id" in piece:
                assert piece["index"] == len(calls)
                calls.append([piece["function"]["name"], "", piece["id"]])
            calls[piece["index"]][1] += piece["function"].get("arguments", "")
    return _heard(thought, text, calls)


async def response(client: httpx.AsyncClient, asked: Question) -> Heard:
    return _of_response((await _post(client, RESPONSES, _response_body(asked))).json())


async def response_streamed(client: httpx.AsyncClient, asked: Question) -> Heard:
    answer = await _post(client, RESPONSES, _response_body(asked) | {"stream": True})
    return await _of_events(client, _data(answer.text))


async def response_socket(client: httpx.AsyncClient, asked: Question) -> Heard:
    url = str(client.base_url).replace("http", "ws", 1)
    events: list[Json] = []
    async with connect(f"{url}{RESPONSES}", compression=None) as socket:
        await socket.send(json.dumps(_response_body(asked) | {"type": "response.create"}))
        while not events or events[-1]["type"] not in LAST:
            events.append(json.loads(await socket.recv()))
    return await _of_events(client, events)


async def message(client: httpx.AsyncClient, asked: Question) -> Heard:
    blocks = (await _post(client, MESSAGES, _message_body(asked))).json()["content"]
    return _of_blocks([b | {"input": json.dumps(b.get("input"))} for b in blocks])


async def message_streamed(client: httpx.AsyncClient, asked: Question) -> Heard:
    answer = await _post(client, MESSAGES, _message_body(asked) | {"stream": True})
    blocks: list[Json] = []
    for event in _data(answer.text):
        if event["type"] == "content_block_start":
            assert event["index"] == len(blocks)
            blocks.append(event["content_block"] | {"input": ""})
        elif event["type"] == "content_block_delta":
            for name, piece in event["delta"].items():
                name = "input" if name == "partial_json" else name
                if name not in ("type", "signature"):
                    blocks[event["index"]][name] += piece
    return _of_blocks(blocks)


EVERY_WAY: dict[str, Ask] = {
    "chat": chat,
    "chat, streamed": chat_streamed,
    "response": response,
    "response, streamed": response_streamed,
    "response, WebSocket": response_socket,
    "message": message,
    "message, streamed": message_streamed,
}


async def _post(client: httpx.AsyncClient, path: str, body: Json) -> httpx.Response:
    answer = await client.post(path, json=body | {"model": "demo"})
    assert answer.status_code == 200, answer.text
    return answer


def _data(text: str) -> list[Json]:
    lines = (line.removeprefix("data: ") for line in text.split("\n") if line[:6] == "data: ")
    return [json.loads(line) for line in lines if line != "[DONE]"]


def _heard(thought: str | None, text: str | None, calls: Any) -> Heard:
    made = tuple((name, arguments) for name, arguments, _ in calls)
    return Heard(thought or "", text or "", made, tuple(id for _, _, id in calls))


def _chat_body(asked: Question) -> Json:
    tools = [
        {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}
        for tool in asked.tools
    ]
    body: Json = {"messages": [{"role": "user", "content": "hi"}], "tools": tools}
    if asked.thinks is not None:
        body["chat_template_kwargs"] = {"enable_thinking": asked.thinks}
    return body | ({"tool_choice": asked.choice} if tools else {})


def _response_body(asked: Question) -> Json:
    body: Json = {"model": "demo", "input": "hi", "tools": list(asked.tools)}
    body |= {"reasoning": {"effort": "none"}} if asked.thinks is False else {}
    return body | ({"tool_choice": asked.choice} if asked.tools else {})


def _message_body(asked: Question) -> Json:
    tools = [
        {
            "name": tool["name"],
            "input_schema": tool.get("parameters", {"type": "object"}),
        }
        for tool in asked.tools
    ]
    body: Json = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2000}
    body |= {"thinking": {"type": "adaptive"}} if asked.thinks else {}
    choice = {"required": "any"}.get(asked.choice, asked.choice)
    return body | ({"tools": tools, "tool_choice": {"type": choice}} if tools else {})


def _of_response(response: Json) -> Heard:
    assert response["status"] == "completed", response
    output = response["output"]
    return _heard(
        "".join(p["text"] for o in output if o["type"] == "reasoning" for p in o["content"]),
        "".join(p["text"] for o in output if o["type"] == "message" for p in o["content"]),
        [(o["name"], o["arguments"], o["call_id"]) for o in output if o["type"] == "function_call"],
    )


async def _of_events(client: httpx.AsyncClient, events: list[Json]) -> Heard:
    """What the deltas add up to, which is what is stored."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    thought, text, calls = "", "", dict[str, list[str]]()
    for event in events:
        match event["type"]:
            case "response.reasoning_text.delta":
                thought += event["delta"]
            case "response.output_text.delta":
                text += event["delta"]
            case "response.output_item.added" if event["item"]["type"] == "function_call":
                item = event["item"]
                calls[item["id"]] = [item["name"], "", item["call_id"]]
            case "response.function_call_arguments.delta":
                calls[event["item_id"]][1] += event["delta"]
    heard = _heard(thought, text, calls.values())
    stored = await client.get(f"{RESPONSES}/{events[-1]['response']['id']}")
    assert heard == _of_response(stored.json()) == _of_response(events[-1]["response"])
    return heard


def _of_blocks(blocks: list[Json]) -> Heard:
    return _heard(
        "".join(block["thinking"] for block in blocks if block["type"] == "thinking"),
        "".join(block["text"] for block in blocks if block["type"] == "text"),
        [(b["name"], b["input"], b["id"]) for b in blocks if b["type"] == "tool_use"],
    )
