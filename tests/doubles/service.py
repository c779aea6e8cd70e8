"""Answers on the scripted engine and the byte tokenizer."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from llamastream.config import TokenizerConfig
from llamastream.generation import (
    Answers,
    Generation,
    NewAnswer,
    Quotas,
    StoredAnswers,
    StorePolicy,
)
from llamastream.keys import Keys
from llamastream.store.database import sqlite_url
from llamastream.text import PromptBuilder, Tokenizer
from llamastream.types import ChatRequest, GenerationRequest
from tests.doubles.engine import FakeEngine, Script
from tests.doubles.store import FailingStore
from tests.doubles.tokenizer import CHATML, IM_END, byte_tokenizer_config


def says(text: str) -> Script:
    """Every request answers `text`, then ends its turn."""
    ids = [*text.encode(), IM_END]
    return lambda request: ids


def last_user_words(request: GenerationRequest) -> list[int]:
    """A request answers with the text of its last message."""
    prompt = list(request.prompt_ids)
    start = len(prompt) - prompt[::-1].index(10, len(b"\nassistant") + 2)
    return prompt[start : prompt.index(IM_END, start) + 1]


def make_service(
    engine: FakeEngine,
    model_id: str = "m",
    keys: Keys | None = None,
    template: str = CHATML,
    config: TokenizerConfig | None = None,
) -> Answers:
    """Not started. `config`: of the tokenizer, in place of one for `template`."""
    tokenizer = Tokenizer(
        config or byte_tokenizer_config(reasons="<think>" in template, template=template)
    )
    return Answers(
        engine,
        tokenizer,
        PromptBuilder.from_config(tokenizer, None),
        model_name="demo",
        model_id=model_id,
        quotas=Quotas(keys or Keys()),
    )


def make_responses(
    service: Answers, folder: Path, policy: StorePolicy | None = None
) -> StoredAnswers:
    """On the database in `folder`. Not started."""
    return StoredAnswers(
        service, lambda: FailingStore.open(sqlite_url(folder)), policy or StorePolicy()
    )


@asynccontextmanager
async def running_responses(
    engine: FakeEngine, folder: Path, policy: StorePolicy | None = None, model_id: str = "m"
) -> AsyncIterator[StoredAnswers]:
    """With its Answers, both stopped in order."""
    async with running_service(engine, model_id) as service:
        responses = make_responses(service, folder, policy)
        await responses.start()
        try:
            yield responses
        finally:
            await service.stop()
            await responses.stop()


@asynccontextmanager
async def running_service(engine: FakeEngine, model_id: str = "m") -> AsyncIterator[Answers]:
    service = make_service(engine, model_id)
    await service.start()
    try:
        yield service
    finally:
        await service.stop()


async def open_answer(answers: Answers, request: ChatRequest, id: str | None = None) -> Generation:
    """One that nobody keeps."""
    return await answers.open(request, NewAnswer(id or uuid.uuid4().hex))
