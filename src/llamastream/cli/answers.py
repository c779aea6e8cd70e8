"""Where the terminal's answers come from: a running server, or a model loaded in this process."""

import json
import uuid
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, Self

import httpx
from pydantic import TypeAdapter, ValidationError

from llamastream.api.wire.tools import ChatTool, ChatTools, chat_call, read_tools
from llamastream.app import Assembly
from llamastream.cli.printing import Piece
from llamastream.config import AnswerSettings
from llamastream.errors import ChatError
from llamastream.generation import NewAnswer
from llamastream.types import (
    CallKind,
    ChatRequest,
    GrammarSpec,
    Message,
    PromptOptions,
    Reasoning,
    ToolCall,
    ToolResult,
)

Messages = tuple[Message, ...]
Tools = Sequence[ChatTool]
_TOOLS: TypeAdapter[list[ChatTool]] = TypeAdapter(ChatTools)


class Answers(Protocol):
    """Streams text, what is thought before it, and pieces of calls behind it. Closing the iterator
    early stops the generation."""

    name: str

    def stream(
        self, prompt: Messages, options: AnswerSettings, tools: Tools = ()
    ) -> AsyncGenerator[Piece]: ...

    async def close(self) -> None: ...


class LocalAnswers:
    """Answers from a model in this process."""

    def __init__(self, assembly: Assembly) -> None:
        self._answers = assembly.answers
        self.name = assembly.answers.model_name

    @classmethod
    async def start(cls, assembly: Assembly) -> Self:
        """Start the engine and wait until its weights are loaded."""
        await assembly.answers.start()
        await assembly.engine.ready()
        return cls(assembly)

    async def stream(
        self,
        prompt: Messages | str,
        options: AnswerSettings,
        tools: Tools = (),
        grammar: GrammarSpec | None = None,
    ) -> AsyncGenerator[Piece]:
        sampling = replace(self._answers.sampling, **options.model_dump(exclude_none=True))
        request = ChatRequest(
            prompt,
            sampling=sampling,
            truncation="auto",
            prompt_options=PromptOptions(tools=read_tools(tools)),
            grammar=grammar,
        )
        generation = await self._answers.open(request, NewAnswer(uuid.uuid4().hex))
        with generation.follow() as reader:
            async for delta in reader:
                thoughts = [part for part in delta.parts if isinstance(part, Reasoning)]
                calls = [part for part in delta.parts if isinstance(part, ToolCall)]
                pieces: list[Piece] = [*thoughts, delta.text, *calls]
                for piece in pieces:
                    yield piece

    async def close(self) -> None:
        await self._answers.stop()


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


def read_tools_file(path: Path) -> list[ChatTool]:
    """Those of a JSON file, a list as chats take it. Raises ChatError."""
    try:
        found = _TOOLS.validate_json(path.read_bytes(), strict=True)
        read_tools(found)
        return found
    except OSError as error:
        reason = str(error.strerror)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except ChatError as error:
        reason = error.message
    raise ChatError(f"--tools {path}: {reason}")
