"""A ChatService on the scripted engine and the byte tokenizer."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from llamastream.generation import ChatService
from llamastream.generation.quotas import Quotas
from llamastream.generation.responses import Responses, StorePolicy
from llamastream.keys import Keys
from llamastream.store.database import sqlite_url
from llamastream.text import PromptBuilder, Tokenizer
from llamastream.types import GenerationRequest
from tests.doubles.engine import FakeEngine, Script
from tests.doubles.store import FailingStore
from tests.doubles.tokenizer import IM_END, byte_tokenizer_config


def says(text: str) -> Script:
    """Every request answers `text`, then ends its turn."""
    ids = [*text.encode(), IM_END]
    return lambda request: ids


def last_user_words(request: GenerationRequest) -> list[int]:
    """A request answers with the text of its last message."""
    prompt = list(request.prompt_ids)
    start = len(prompt) - prompt[::-1].index(10, len(b"\nassistant") + 2)
    return prompt[start : prompt.index(IM_END, start) + 1]


def make_service(engine: FakeEngine, model_id: str = "m", keys: Keys | None = None) -> ChatService:
    """Not started."""
    tokenizer = Tokenizer(byte_tokenizer_config())
    return ChatService(
        engine,
        tokenizer,
        PromptBuilder.from_config(tokenizer, None),
        model_name="demo",
        model_id=model_id,
        quotas=Quotas(keys or Keys()),
    )


def make_responses(
    service: ChatService, folder: Path, policy: StorePolicy | None = None
) -> Responses:
    """On the database in `folder`. Not started."""
    return Responses(
        service, lambda: FailingStore.open(sqlite_url(folder)), policy or StorePolicy()
    )


@asynccontextmanager
async def running_responses(
    engine: FakeEngine, folder: Path, policy: StorePolicy | None = None, model_id: str = "m"
) -> AsyncIterator[Responses]:
    """With its ChatService, both stopped in order."""
    async with running_service(engine, model_id) as service:
        responses = make_responses(service, folder, policy)
        await responses.start()
        try:
            yield responses
        finally:
            await service.stop()
            await responses.stop()


@asynccontextmanager
async def running_service(engine: FakeEngine, model_id: str = "m") -> AsyncIterator[ChatService]:
    service = make_service(engine, model_id)
    await service.start()
    try:
        yield service
    finally:
        await service.stop()
