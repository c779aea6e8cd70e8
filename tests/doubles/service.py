"""A ChatService on the scripted engine and the byte tokenizer."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from llamastream.chat import PromptBuilder, Tokenizer
from llamastream.messages import GenerationRequest
from llamastream.service import ChatService
from tests.doubles.engine import FakeEngine, Script
from tests.doubles.tokenizer import IM_END, byte_tokenizer_config


def says(text: str) -> Script:
    """Every request answers `text`, then ends its turn."""
    ids = [*text.encode(), IM_END]
    return lambda request: ids


def last_user_words(request: GenerationRequest) -> list[int]:
    """A request answers with the text of its last message."""
    prompt = list(request.prompt_ids)
    start = len(prompt) - prompt[::-1].index(10, len(b"\nassistant") + 1)
    return prompt[start : prompt.index(IM_END, start) + 1]


def make_service(engine: FakeEngine) -> ChatService:
    """Not started."""
    tokenizer = Tokenizer(byte_tokenizer_config())
    return ChatService(
        engine, tokenizer, PromptBuilder.from_config(tokenizer, None), model_name="demo"
    )


@asynccontextmanager
async def running_service(engine: FakeEngine) -> AsyncIterator[ChatService]:
    service = make_service(engine)
    await service.start()
    try:
        yield service
    finally:
        await service.stop()
