"""The requests whose answers are golden: each format, stored and not, whole and streamed."""

import json
from typing import Any

from tests.wire.transcript import Transcript

CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"


def chat(**options: Any) -> dict[str, Any]:
    return {"model": "demo", "messages": [{"role": "user", "content": "Hi é"}], **options}


def text(**options: Any) -> dict[str, Any]:
    return {"model": "demo", "prompt": "Hi é", **options}


def response(**options: Any) -> dict[str, Any]:
    return {"model": "demo", "input": "Hi é", **options}


def document(**options: Any) -> dict[str, Any]:
    return {"prompt": "Hi", "max_tokens": 40, **options}


async def chats(t: Transcript) -> None:
    usage = {"stream_options": {"include_usage": True}}
    await t.ask("chat", "POST", CHAT, chat())
    await t.ask("chat stream", "POST", CHAT, chat(stream=True))
    await t.ask("chat usage", "POST", CHAT, chat(stream=True, **usage))
    await t.ask("chat n", "POST", CHAT, chat(stream=True, n=3, max_tokens=5))
    await t.ask("chat n whole", "POST", CHAT, chat(n=2, metadata={"a": "b"}))
    await t.ask("chat stop", "POST", CHAT, chat(stream=True, stop=["three"]))
    shown = {"include_stop_str_in_output": True}
    await t.ask("chat stop shown", "POST", CHAT, chat(stop="three", **shown))
    logprobs = {"logprobs": True, "top_logprobs": 2, "max_tokens": 4}
    await t.ask("chat logprobs", "POST", CHAT, chat(stream=True, **logprobs))
    await t.ask("chat logprobs whole", "POST", CHAT, chat(**logprobs))
    ids = {"return_token_ids": True, "truncation": "auto", "max_tokens": 6}
    await t.ask("chat ids", "POST", CHAT, chat(stream=True, **ids))
    await t.ask("chat ids whole", "POST", CHAT, chat(**ids))
    await t.ask("chat of a model that is not here", "POST", CHAT, chat(model="other"))
    await t.ask("chat too long", "POST", CHAT, chat(max_tokens=100_000))
    await t.ask("chat with a key", "POST", CHAT, chat(), {"Idempotency-Key": "k"})
    await t.ask("chat unknown option", "POST", CHAT, chat(temperatur=1))
    await t.ask("chat no JSON", "POST", CHAT, b"{")


async def completions(t: Transcript) -> None:
    await t.ask("text", "POST", TEXT, text())
    await t.ask("text stream", "POST", TEXT, text(stream=True, max_tokens=40))
    prompts = {"prompt": ["a", [104, 105]], "max_tokens": 3, "return_token_ids": True}
    await t.ask("text prompts", "POST", TEXT, text(stream=True, n=2, **prompts))
    await t.ask("text logprobs", "POST", TEXT, text(stream=True, logprobs=1, max_tokens=22))
    await t.ask("text logprobs whole", "POST", TEXT, text(logprobs=1, max_tokens=22))
    await t.ask("text empty", "POST", TEXT, text(prompt=""))


async def responses(t: Transcript) -> None:
    logprobs = {"include": ["message.output_text.logprobs"], "top_logprobs": 1}
    await t.ask("response unstored", "POST", RESPONSES, response(store=False))
    await t.ask("response unstored stream", "POST", RESPONSES, response(store=False, stream=True))
    first = json.loads(await t.ask("response", "POST", RESPONSES, response(metadata={"a": "b"})))
    body = response(stream=True, max_output_tokens=6, **logprobs)
    await t.ask("response stream", "POST", RESPONSES, body)
    ids = response(stream=True, return_token_ids=True, instructions="Be.")
    events = await t.ask("response ids", "POST", RESPONSES, ids, {"Idempotency-Key": "r"})
    await t.ask("response again", "POST", RESPONSES, ids, {"Idempotency-Key": "r"})
    other = ids | {"input": "other"}
    await t.ask("response conflict", "POST", RESPONSES, other, {"Idempotency-Key": "r"})
    id = json.loads(events.split("data: ")[1].split("\n")[0])["response"]["id"]
    await t.ask("response resumed", "GET", f"{RESPONSES}/{id}?stream=true&starting_after=9")
    await t.ask("response at its end", "GET", f"{RESPONSES}/{id}?stream=true&starting_after=999")
    last = {"Last-Event-ID": "20", "Accept": "text/event-stream"}
    await t.ask("response by event id", "GET", f"{RESPONSES}/{id}?stream=true", None, last)
    await t.ask("response retrieved", "GET", f"{RESPONSES}/{id}")
    await t.ask("response items", "GET", f"{RESPONSES}/{id}/input_items")
    follow_up = response(previous_response_id=first["id"], stream=True)
    await t.ask("response continued", "POST", RESPONSES, follow_up)
    await t.ask("response cancelled late", "POST", f"{RESPONSES}/{id}/cancel")
    await t.ask("response deleted", "DELETE", f"{RESPONSES}/{id}")
    await t.ask("response gone", "GET", f"{RESPONSES}/{id}?stream=true")
    await t.ask("response unknown", "GET", f"{RESPONSES}/resp_none")


async def background(t: Transcript) -> None:
    waiting = response(input="waits", background=True)
    begun = json.loads(await t.ask("background", "POST", RESPONSES, waiting))
    await t.ask("background cancelled", "POST", f"{RESPONSES}/{begun['id']}/cancel")
    failing = response(input="fails", stream=True)
    await t.ask("response failed", "POST", RESPONSES, failing)
    await t.ask("unstored failed", "POST", RESPONSES, failing | {"store": False})
    messages = [{"role": "user", "content": "fails"}]
    await t.ask("chat failed", "POST", CHAT, chat(stream=True, messages=messages))
    await t.ask("chat failed whole", "POST", CHAT, chat(messages=messages))
    await t.ask(
        "stored chat failed", "POST", CHAT, chat(stream=True, messages=messages, store=True)
    )
    await t.ask("jina failed", "POST", "/stream", document(prompt="fails"))
    await t.call("grpc failed", document(prompt="fails"))


async def stored_chats(t: Transcript) -> None:
    body = chat(stream=True, store=True, max_tokens=30, stream_options={"include_usage": True})
    events = await t.ask("stored chat", "POST", CHAT, body)
    id = json.loads(events.split("data: ")[1].split("\n")[0])["id"]
    await t.ask("stored chat resumed", "GET", f"{CHAT}/{id}?stream=true&starting_after=4")
    last = {"Last-Event-ID": "11"}
    await t.ask("stored chat by event id", "GET", f"{CHAT}/{id}?stream=true", None, last)
    await t.ask("stored chat retrieved", "GET", f"{CHAT}/{id}")
    await t.ask("stored chat list", "GET", CHAT)
    await t.ask("stored chat messages", "GET", f"{CHAT}/{id}/messages")
    await t.ask("stored chat changed", "POST", f"{CHAT}/{id}", {"metadata": {"x": "y"}})
    await t.ask("stored chat deleted", "DELETE", f"{CHAT}/{id}")
    await t.ask("stored chat gone", "GET", f"{CHAT}/{id}")
    whole = chat(store=True, logprobs=True, return_token_ids=True, max_tokens=3)
    await t.ask("stored chat whole", "POST", CHAT, whole)


async def sockets(t: Transcript) -> None:
    create = {"type": "response.create"}
    events = await t.say("socket", create | response())
    id = events[0]["response"]["id"]
    resume = {"type": "response.resume", "response_id": id, "starting_after": 7}
    await t.say("socket resumed", resume, resume | {"stream_id": "s"})
    unstored = response(store=False, max_output_tokens=3)
    await t.say("socket unstored", create | unstored, create | unstored | {"stream_id": "b"})
    await t.say("socket failed", create | response(input="fails"))
    await t.say("socket errors", "{", {"type": "x"}, create, resume | {"response_id": "resp_x"})


async def documents(t: Transcript) -> None:
    await t.call("grpc", document(temperature=0.0))
    await t.call("grpc logprobs", document(logprobs=True))
    await t.call("grpc one token", document(max_tokens=1))
    id = await t.call("grpc stored", document(store=True))
    await t.call("grpc resumed", document(stream_id=id, starting_after=7))
    short = await t.call("grpc stored short", document(store=True, max_tokens=3))
    await t.call("grpc stored short resumed", document(stream_id=short, starting_after=1))
    await t.call("grpc wrong", document(max_tokens=0))
    await t.call("grpc wrong endpoint", document(), endpoint="/x")
    await t.call("grpc unknown", document(stream_id="stream_x"))
    await t.ask("jina", "POST", "/stream", document(stop=["three"]))
    await t.ask("jina by query", "GET", "/stream?prompt=Hi&max_tokens=5&stop=e&stop=x")
    await t.ask("jina stored", "POST", "/stream", document(store=True, max_tokens=3))
    resumed = document(stream_id=id, starting_after=9)
    await t.ask("jina resumed", "POST", "/stream", resumed)
    await t.ask("jina wrong", "POST", "/stream", document(max_tokens=0))
    events = {"Accept": "text/event-stream"}
    await t.ask("jina wrong, events", "POST", "/stream", document(max_tokens=0), events)
    await t.ask("jina deleted", "DELETE", f"/stream/{id}")
    await t.ask("jina gone", "POST", "/stream", resumed)


ALL = (chats, completions, responses, background, stored_chats, sockets, documents)
