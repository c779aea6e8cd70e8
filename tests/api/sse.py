"""Reading server-sent events as a client does."""

import json
from typing import Any

import httpx


def events(text: str) -> list[Any]:
    """The data of all events; `[DONE]` stays a string. Comments are dropped."""
    found = []
    for block in text.split("\n\n")[:-1]:
        lines = [line for line in block.split("\n") if not line.startswith(":")]
        for line in lines:
            data = line.removeprefix("data: ")
            found.append(data if data == "[DONE]" else json.loads(data))
    return found


def chat_body(text: str = "hi", **options: Any) -> dict[str, Any]:
    return {"model": "demo", "messages": [{"role": "user", "content": text}], **options}


async def stream_chat(client: httpx.AsyncClient, **options: Any) -> list[Any]:
    response = await client.post("/v1/chat/completions", json=chat_body(stream=True, **options))
    assert response.status_code == 200, response.text
    return events(response.text)


def content_of(chunks: list[Any], index: int = 0) -> str:
    return "".join(
        choice["delta"].get("content", "")
        for chunk in chunks
        if chunk != "[DONE]"
        for choice in chunk["choices"]
        if choice["index"] == index
    )
