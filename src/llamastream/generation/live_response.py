"""A stored response while it is generated: what the engine has drawn, and how far it is journalled.

Knows neither store nor engine: `Responses` moves the tokens between them.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from typing import Any, NamedTuple, Self

from llamastream.generation.choice import Choice, TextRules
from llamastream.generation.report import Report
from llamastream.generation.response_log import ResponseLog
from llamastream.store.records import Response
from llamastream.text import Tokenizer
from llamastream.types import FinishReason, GenerationRequest, Token, Usage

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Details:
    """What the store keeps of a request beside prompt and sampling. `wire` is the transport's."""

    wire: Json
    rules: TextRules
    background: bool
    num_dropped_turns: int
    model_id: str  # whose tokens these are
    prompt_token_ids: tuple[int, ...] | None  # if the transport shows them

    def to_json(self) -> Json:
        stop_ids = sorted(self.rules.stop_token_ids)
        return asdict(self) | {"rules": asdict(self.rules) | {"stop_token_ids": stop_ids}}

    @classmethod
    def from_json(cls, fields: Json) -> Self:
        rules = fields["rules"] | {
            "stop": tuple(fields["rules"]["stop"]),
            "stop_token_ids": frozenset(fields["rules"]["stop_token_ids"]),
        }
        return cls(**(fields | {"rules": TextRules(**rules)}))


class End(NamedTuple):
    """How generation ended. `error` is None unless it failed."""

    reason: FinishReason | None
    num_cached_tokens: int = 0
    queue_s: float | None = None
    error: str | None = None


class LiveResponse:
    """`log.tokens` holds what was drawn."""

    def __init__(
        self,
        record: Response,
        details: Details,
        generation: GenerationRequest,
        tokenizer: Tokenizer,
        tokens: Sequence[Token] = (),
    ) -> None:
        """`tokens` were journalled before, by this server or by one that is no more."""
        self.id = record.id
        self.details = details
        self.log = ResponseLog(record, details.rules)
        self.num_journalled = len(tokens)  # of the log's tokens, committed
        self.num_sent = len(tokens)  # handed to the store
        self.num_outstanding = 0  # steps handed to the store and not confirmed yet
        self.is_lapsed = False  # the journal misses tokens that were shown
        self.is_submitted = False  # the engine has it, and will say how it ends
        self.is_cancelled = False
        self.is_ending = False
        self.is_dropped = False  # removed: nothing of it is shown, stored or tried again
        self.is_parked = False  # replaced by a successor, which `parked` made
        self.is_leaving = False  # the engine has not confirmed the predecessor's end
        self._opened_s = time.perf_counter()
        self._first_token_s: float | None = None
        self._last_token_s = self._opened_s
        self._num_taken = 0
        self._generation = generation
        self._tokenizer = tokenizer
        # Text is needed on the way only where a stop string may end it.
        self._choice = self._new_choice() if details.rules.stop else None
        self._grace: asyncio.TimerHandle | None = None
        for token in tokens:
            self._add(token)
        self.log.publish(len(tokens))

    @property
    def is_stopped(self) -> bool:
        """True when nothing more is taken from the engine: a stop string matched, or cancelled."""
        return self.is_cancelled or self.finish_reason is not None

    @property
    def finish_reason(self) -> FinishReason | None:
        """Known here first for a stop string; otherwise the engine says it."""
        return None if self._choice is None else self._choice.finish_reason

    @property
    def has_ended(self) -> bool:
        """True when it will not go on as this object."""
        return self.is_ending or self.is_parked or self.log.error is not None

    @property
    def is_journalled(self) -> bool:
        return self.num_journalled == len(self.log.tokens)

    def generation(self) -> GenerationRequest:
        """What the engine is asked for, to go on behind what is journalled."""
        ids = tuple(token.token_id for token in self.log.tokens)
        return replace(self._generation, output_ids=ids)

    def take(self, token: Token) -> None:
        """One more token of the engine."""
        self._add(token)
        self._num_taken += 1
        self._last_token_s = time.perf_counter()
        self._first_token_s = self._first_token_s or self._last_token_s

    def text(self, reason: FinishReason) -> str:
        """The whole visible text, when no more tokens come."""
        choice = self._new_choice()
        text = "".join([choice.add(token).text for token in self.log.tokens])
        return text if choice.finish_reason is not None else text + choice.finish(reason).text

    def usage(self, num_cached_tokens: int) -> Usage:
        return Usage(len(self._generation.prompt_ids), num_cached_tokens, len(self.log.tokens))

    def report(self, usage: Usage, queue_s: float | None, outcome: str) -> Report:
        """Times are those since this server began or resumed it."""
        ttft_s = itl_s = None
        if self._first_token_s is not None:
            ttft_s = self._first_token_s - self._opened_s
            if self._num_taken > 1:
                itl_s = (self._last_token_s - self._first_token_s) / (self._num_taken - 1)
        return Report(self.id, "", usage, queue_s, ttft_s, itl_s, outcome)

    def parked(self) -> "LiveResponse":
        """The same response at the end of its journal, to be generated on from there."""
        self.is_parked = True
        self.stop_watching()
        tokens = self.log.tokens[: self.num_journalled]
        live = LiveResponse(
            self.log.record, self.details, self._generation, self._tokenizer, tokens
        )
        live.is_cancelled = self.is_cancelled
        return live

    def watch_readers(self, grace_s: float, on_deserted: Callable[["LiveResponse"], None]) -> None:
        """Call `on_deserted` when nobody has followed for `grace_s`; not for `background`."""
        self.stop_watching()
        if not self.details.background and not self.log.num_readers:
            loop = asyncio.get_running_loop()
            self._grace = loop.call_later(grace_s, on_deserted, self)

    def stop_watching(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None

    def _add(self, token: Token) -> None:
        self.log.tokens.append(token)
        if self._choice is not None:
            self._choice.add(token)

    def _new_choice(self) -> Choice:
        return Choice(0, self._tokenizer, self.details.rules, count().__next__)
