"""Where the terminal's answers come from: a running server, or a model loaded in this process."""

import json
import uuid
from collections.abc import AsyncGenerator, Iterator
from dataclasses import asdict, replace
from typing import Any, Protocol, Self

import httpx

from llamastream.app import Assembly
from llamastream.config import AnswerSettings
from llamastream.errors import ChatError
from llamastream.generation import NewAnswer
from llamastream.types import ChatRequest, GrammarSpec, Message, Reasoning

Messages = tuple[Message, ...]
Piece = str | Reasoning


class Answers(Protocol):
    """Streams text, and what is thought before it. Closing the iterator early stops the
    generation."""

    name: str

    def stream(self, prompt: Messages, options: AnswerSettings) -> AsyncGenerator[Piece]: ...

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
        grammar: GrammarSpec | None = None,
    ) -> AsyncGenerator[Piece]:
        sampling = replace(self._answers.sampling, **options.model_dump(exclude_none=True))
        request = ChatRequest(prompt, sampling=sampling, truncation="auto", grammar=grammar)
        generation = await self._answers.open(request, NewAnswer(uuid.uuid4().hex))
        with generation.follow() as reader:
            async for delta in reader:
                for part in delta.parts:
                    if isinstance(part, Reasoning):
                        yield part
                yield delta.text

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

    async def stream(self, prompt: Messages, options: AnswerSettings) -> AsyncGenerator[Piece]:
        body = {
            "model": self.name,
            "messages": [asdict(message) for message in prompt],
            "stream": True,
            **options.model_dump(exclude_none=True),
        }
        try:
            async with self._client.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.is_error:
                    await response.aread()
                    raise _refusal(response)
                async for line in response.aiter_lines():
                    if line.startswith("data: {"):
                        for piece in _pieces(json.loads(line.removeprefix("data: "))):
                            yield piece
        except httpx.HTTPError as error:
            raise ChatError(
                f"lost the server at {self._client.base_url}: {error or type(error).__name__}"
            ) from None

    async def close(self) -> None:
        await self._client.aclose()


def _pieces(event: dict[str, Any]) -> Iterator[Piece]:
    if "error" in event:
        raise ChatError(event["error"]["message"])
    for choice in event["choices"]:
        if thought := choice["delta"].get("reasoning_content"):
            yield Reasoning(thought)
        yield choice["delta"].get("content") or ""


def _refusal(response: httpx.Response) -> ChatError:
    try:
        return ChatError(response.json()["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return ChatError(f"{response.url} answered {response.status_code}.")
