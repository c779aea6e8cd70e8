"""Stored answers computed a second time, and compared with what was stored.

What a draw is depends on ids, seed and position alone. So the stored ids are computed along as a
prompt is, and each is drawn behind the ones before it; nothing is taken from them but that.
"""

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

from llamastream.errors import NotVerifiable
from llamastream.generation.answers import Answers, Ephemeral
from llamastream.generation.dispatch import Dispatcher
from llamastream.generation.generation import Generation, State
from llamastream.generation.receipts import ELSEWHERE, Computation, Receipt, digest_of
from llamastream.generation.replay import Replay
from llamastream.records import Status
from llamastream.types import FinishReason

if TYPE_CHECKING:
    from llamastream.store.store import Store

WHY_ENDED = {Status.COMPLETED: FinishReason.STOP, Status.INCOMPLETE: FinishReason.LENGTH}


class Difference(NamedTuple):
    """Where the two differ first. None: the answer had ended; where both are None, for another
    reason than is recorded."""

    choice: int
    position: int  # in the choice's ids
    recorded: int | None
    drawn: int | None


class Comparing(Ephemeral):
    """The keeper of an answer that is drawn a second time. Ends it where nothing is left to see."""

    def __init__(self, dispatcher: Dispatcher, receipt: Receipt) -> None:
        super().__init__(dispatcher)
        self._dispatcher = dispatcher
        self._receipt = receipt
        self._is_over = False
        self.num_equal = 0
        self.difference: Difference | None = None

    def drawn(self, generations: Iterable[Generation]) -> None:
        for generation in generations:
            self._compare(generation)
        super().drawn(generations)

    def ended(self, generation: Generation) -> None:
        if not self._is_over:
            recorded, status = self._receipt.token_ids, self._receipt.status
            if self.num_equal < len(recorded):
                self._differ(recorded[self.num_equal], None)
            elif not self._may_end_anywhere:
                if generation.choices[0].finish_reason is not WHY_ENDED[status]:
                    self._differ(None, None)
        super().ended(generation)

    @property
    def _may_end_anywhere(self) -> bool:
        """It was cancelled, or came to the end of a context, which may be longer now."""
        status = self._receipt.status
        is_full = status is Status.INCOMPLETE and self._receipt.sampling.max_tokens is None
        return is_full or status is Status.CANCELLED

    def _compare(self, generation: Generation) -> None:
        recorded = self._receipt.token_ids
        ids, _ = generation.log.drawn(self.num_equal, generation.num_tokens)
        for token_id in ids:
            expected = recorded[self.num_equal] if self.num_equal < len(recorded) else None
            if token_id != expected:
                if expected is not None or not self._may_end_anywhere:
                    self._differ(expected, token_id)
                break
            self.num_equal += 1
        all_equal = self.num_equal == len(recorded) and self._may_end_anywhere
        if (self.difference or all_equal) and generation.state is State.RUNNING:
            self._is_over = True
            self._dispatcher.cancel(generation)

    def _differ(self, recorded: int | None, drawn: int | None) -> None:
        self.difference = Difference(0, self.num_equal, recorded, drawn)


@dataclass(frozen=True, slots=True)
class Verification:
    """Known once `generation` has ended well."""

    generation: Generation
    receipt: Receipt
    _comparing: Comparing

    @property
    def difference(self) -> Difference | None:
        return self._comparing.difference

    @property
    def num_equal(self) -> int:
        """Tokens that are the same, from the first on."""
        return self._comparing.num_equal


class Verifying:
    """Every method raises NotFound for an id that `scope` does not have."""

    def __init__(self, answers: Answers, store: "Store") -> None:
        self._answers = answers
        self._store = store
        self._replay = Replay(answers.tokenizer, answers.model_id, answers.grammars)

    async def receipt(self, id: str, *, scope: str) -> Receipt:
        return Receipt.of(await self._store.prompts.recorded(id, scope=scope))

    async def begin(self, id: str, *, scope: str) -> Verification:
        """Have an answer drawn again. It ends when its last reader leaves.

        Raises NotVerifiable, and what refuses an answer that is new.
        """
        answers = self._answers
        answers.check_ready()
        answers.check_room(scope)
        recorded = await self._store.prompts.recorded(id, scope=scope)
        receipt = Receipt.of(recorded)
        prompt_ids = self._check(receipt, recorded.prompt_ids)
        comparing = Comparing(answers.dispatcher, receipt)
        sampling = replace(receipt.sampling, logprobs=None)
        record = recorded.response
        generation = await self._replay.from_start(record, prompt_ids, sampling, comparing)
        (choice,) = generation.choices
        choice.request = replace(
            choice.request,
            request_id=f"{id}-verify-{secrets.token_hex(8)}",
            cache_salt=None,
            expected_ids=self._expected(receipt),
        )
        answers.submit(generation)
        return Verification(generation, receipt, comparing)

    def _check(self, receipt: Receipt, prompt_ids: Sequence[int] | None) -> Sequence[int]:
        """The prompt of an answer that can be computed again here. Raises NotVerifiable."""
        limit = self._answers.status().max_model_len
        reason = self._reason(receipt)
        if reason is None:
            if prompt_ids is None:
                reason = "is kept without its prompt: an older release stored it, or something "
                reason += "that it answered was deleted"
            elif digest_of(prompt_ids) != receipt.prompt_sha256:
                reason = "has another prompt than its receipt: what the database holds was changed"
            elif len(prompt_ids) + len(receipt.token_ids) > limit:
                reason = f"is longer than the context here, {limit} tokens (--max-model-len)"
            else:
                return prompt_ids
        raise NotVerifiable(receipt.response_id, reason)

    def _reason(self, receipt: Receipt) -> str | None:
        """Why what computes here cannot verify an answer, whatever its prompt."""
        if receipt.status is Status.IN_PROGRESS:
            return "is in progress: verify it when it has ended"
        if receipt.status is Status.FAILED:
            return "has failed: there is nothing to verify"
        ours, theirs = Computation.parse(self._answers.model_id), receipt.computation
        if theirs.precision == ELSEWHERE:
            return "was drawn by an engine on another machine (--engine-url): no promise holds"
        for what, mine, its in zip(Computation._fields, ours, theirs, strict=True):
            if mine != its:
                return f"was drawn with other {what}: {its or 'unknown'}, here {mine or 'unknown'}"
        if receipt.grammar is not None:
            known = self._answers.grammars.recorded(receipt.grammar.spec)
            if known is not None and known.version != receipt.grammar.version:
                its = receipt.grammar.version
                return f"kept to a grammar of another release: {its}, here {known.version}"
        return None

    def _expected(self, receipt: Receipt) -> tuple[int, ...]:
        """What is worth computing along: nothing follows an end, or the last token."""
        stop_ids, size = receipt.sampling.stop_token_ids, self._answers.status().vocab_size
        ids = receipt.token_ids[:-1]
        return tuple(takewhile(lambda id: id not in stop_ids and id < size, ids))
