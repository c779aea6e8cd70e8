"""The terminal's answers from a running server. Apart, since the client takes long to import."""

import json
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from typing import Any, Self

import httpx

from llamastream.api.wire.tools import chat_call
from llamastream.cli.answers import Messages, Tools
from llamastream.cli.printing import Piece
from llamastream.config import AnswerSettings
from llamastream.errors import ChatError
from llamastream.types import CallKind, Message, Reasoning, ToolCall, ToolResult


class RemoteAnswers:
    """Answers from a server with OpenAI's Chat Completions."""

    def __init__(self, client: httpx.AsyncClient, name: str) -> None:
        self._client = client
        self.name = name

    @classmethod
    async def connect(cls, url: str, api_key: str | None) -> Self:
        """Ask the server at `url` for its model. Raises ChatError when nothing answers there.

        The `/v1` of the address that `serve` prints and other clients want may be on it.
        """
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        timeout = httpx.Timeout(10.0, read=None)
        base_url = url.rstrip("/").removesuffix("/v1")
        client = httpx.AsyncClient(base_url=base_url, headers=headers, timeout=timeout)
        try:
            response = await client.get("/v1/models")
            if response.is_error:
                raise _refusal(response)
            return cls(client, response.json()["data"][0]["id"])
        except (httpx.HTTPError, ValueError, LookupError) as error:
            await client.aclose()
            raise ChatError(f"no chat server answers at {url}: {error}") from None

    async def stream(
        self, prompt: Messages, options: AnswerSettings, tools: Tools = ()
    ) -> AsyncGenerator[Piece]:
        body = {
            "model": self.name,
            "messages": [shown for message in prompt for shown in _shown(message)],
            "stream": True,
            "tools": [tool.model_dump(exclude_none=True) for tool in tools],
            **options.model_dump(exclude_none=True),
        }
        calls: dict[int, ToolCall] = {}
        try:
            async with self._client.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.is_error:
                    await response.aread()
                    raise _refusal(response)
                async for line in response.aiter_lines():
                    if line.startswith("data: {"):
                        for piece in _pieces(json.loads(line.removeprefix("data: ")), calls):
                            yield piece
        except httpx.HTTPError as error:
            raise ChatError(
                f"lost the server at {self._client.base_url}: {error or type(error).__name__}"
            ) from None

    async def close(self) -> None:
        await self._client.aclose()


def _shown(message: Message) -> Iterator[dict[str, Any]]:
    """As a chat's messages: each result is one of its own."""
    calls = [chat_call(part) for part in message.parts if isinstance(part, ToolCall)]
    results = [part for part in message.parts if isinstance(part, ToolResult)]
    for result in results:
        yield {"role": "tool", "tool_call_id": result.call_id, "content": result.text}
    if not results:
        said = {"role": message.role, "content": message.text}
        yield said | ({"tool_calls": calls} if calls else {})


def _pieces(event: dict[str, Any], calls: dict[int, ToolCall]) -> Iterator[Piece]:
    """`calls`: the beginnings of those so far, by their places."""
    if "error" in event:
        raise ChatError(event["error"]["message"])
    for choice in event["choices"]:
        if thought := choice["delta"].get("reasoning_content"):
            yield Reasoning(thought)
        yield choice["delta"].get("content") or ""
        for piece in choice["delta"].get("tool_calls", ()):
            kind: CallKind = "custom" if "custom" in piece else "function"
            said = piece[kind]
            if "id" in piece:
                calls[piece["index"]] = ToolCall(piece["id"], said["name"], "", kind)
            more = said.get("input" if kind == "custom" else "arguments", "")
            yield replace(calls[piece["index"]], arguments=more)


def _refusal(response: httpx.Response) -> ChatError:
    try:
        return ChatError(response.json()["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return ChatError(f"{response.url} answered {response.status_code}.")
