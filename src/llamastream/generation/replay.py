"""A stored answer made anew from what the store has of it: its record and its token ids."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from llamastream.generation.choice import Choice
from llamastream.generation.durable import end_of
from llamastream.generation.generation import FINISH_REASONS, Details, Generation, Keeper
from llamastream.generation.grammars import Compiling
from llamastream.generation.items import result_of
from llamastream.records import Growth, Interrupted, Response, Status
from llamastream.sampling import SamplingParams
from llamastream.store.damage import reading
from llamastream.text import Tokenizer
from llamastream.types import GenerationRequest, Token

if TYPE_CHECKING:
    from llamastream.store.store import Store

AT_A_TIME = 256  # tokens, so that a long answer does not hold up the others


class Replay:
    def __init__(self, tokenizer: Tokenizer, model_id: str, grammars: Compiling) -> None:
        """`model_id`: whose token ids mean something here."""
        self._tokenizer = tokenizer
        self._grammars = grammars
        self._model_id = model_id

    async def of_record(
        self, record: Response, tokens: Sequence[Token], keeper: Keeper
    ) -> Generation:
        """One that nobody here generates: it has ended, or another server goes on with it."""
        generation = await self._make(record, keeper)
        await self.grow(generation, Growth(tokens, None))
        if record.status is not Status.IN_PROGRESS:
            await self.grow(generation, Growth((), record))
        return generation

    async def grow(self, generation: Generation, growth: Growth) -> None:
        """What has become of one since, in the database."""
        (choice,), record = generation.choices, growth.ended
        is_ours = generation.details.model_id == self._model_id
        if is_ours:
            for number, token in enumerate(growth.tokens):
                if token.position == choice.num_output_tokens:  # not known since
                    generation.take(choice, token)
                if number % AT_A_TIME == AT_A_TIME - 1:
                    await asyncio.sleep(0)
            generation.publish(len(generation.log))
        if record is None:
            return
        reason = FINISH_REASONS.get(record.status)
        if not is_ours:
            if reason is not None:
                text, parts = result_of(record)
                generation.log.append(0, text, reason=reason, parts=parts)
        elif reason is not None:
            generation.end_text(choice, reason)
        generation.finish(end_of(record, record.finished_at))

    async def of_interrupted(
        self, one: Interrupted, store: "Store", keeper: Keeper, known: Generation | None
    ) -> Generation:
        """One that this server is to go on with: `known`, where it has readers here."""
        record = one.response
        generation = known or await self._make(record, keeper)
        after = generation.num_tokens - 1
        tokens = await store.responses.tokens(record.id, scope=record.scope, after=after)
        await self.grow(generation, Growth(tokens, None))
        self._ask(generation, one.prompt_ids, one.sampling)
        generation.is_cancelled = one.is_cancelled
        return generation

    async def from_start(
        self, record: Response, prompt_ids: Sequence[int], sampling: SamplingParams, keeper: Keeper
    ) -> Generation:
        """One that is to be generated a second time."""
        generation = await self._make(record, keeper)
        self._ask(generation, prompt_ids, sampling)
        return generation

    def _ask(
        self, generation: Generation, prompt_ids: Sequence[int], sampling: SamplingParams
    ) -> None:
        """What the engine is asked for."""
        (choice,), details = generation.choices, generation.details
        grammar = self._grammars.of_record(details.grammar, details.rules)
        choice.request = replace(
            choice.request, prompt_ids=prompt_ids, sampling=sampling, grammar=grammar
        )
        generation.grammar = grammar

    async def _make(self, record: Response, keeper: Keeper) -> Generation:
        """Before its first token."""
        with reading("response", record.id):
            details = Details.from_json(record.request)
        asked = GenerationRequest(
            request_id=record.id,
            prompt_ids=details.prompt_token_ids or (),
            sampling=SamplingParams(),
            cache_salt=record.scope.encode(),
            scope=record.scope,
        )
        choice = Choice(0, self._tokenizer, details.rules, asked, record.id)
        generation = Generation(record.id, details, [choice], keeper, created_at=record.created_at)
        generation.scope, generation.is_stored = record.scope, True
        generation.conversation_id = record.conversation_id
        generation.previous_response_id = record.previous_response_id
        return generation
