"""Where the terminal's answers come from: a model loaded here, or (`remote`) a running server."""

import uuid
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, Self

from pydantic import TypeAdapter, ValidationError

from llamastream.api.wire.tools import ChatTool, ChatTools, read_tools
from llamastream.app import Assembly
from llamastream.cli.printing import Piece
from llamastream.config import AnswerSettings
from llamastream.errors import ChatError
from llamastream.generation import NewAnswer
from llamastream.types import (
    ChatRequest,
    GrammarSpec,
    Message,
    PromptOptions,
    Reasoning,
    ToolCall,
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
