"""One answer's place in its grammar.

The invariant: a mask allows a token that is text, where the grammar goes on with it, and a stop
token exactly where the grammar may end. Never a control token, whatever the parser thinks of it.
"""

from collections.abc import Sequence

import llguidance
import numpy as np

from llamastream.errors import InvalidRequest
from llamastream.grammar.vocabulary import Mask, Vocabulary


class MatcherConstraint:
    """See types.Constraint. Never rolled back: a fork is thrown away instead."""

    def __init__(
        self,
        matcher: llguidance.LLMatcher,
        vocabulary: Vocabulary,
        *,
        is_first: bool,
        param: str,
        triggers: Mask | None = None,
    ) -> None:
        """`is_first`: what comes is the first token of a text of its own. `param`: the field of the
        request that errors name. `triggers`: control tokens that the grammar may use."""
        self._triggers = triggers
        self._matcher, self._vocabulary = matcher, vocabulary
        self._is_first = is_first
        self._param = param

    def append(self, token_ids: Sequence[int]) -> None:
        if token_ids:
            self._matcher.consume_tokens(list(token_ids))
            self._is_first = False
            self._check()

    def mask(self) -> bytes:
        vocabulary = self._vocabulary
        allowed = vocabulary.first_ids if self._is_first else vocabulary.text_ids
        if self._triggers is not None:
            allowed = allowed | self._triggers
        words = np.frombuffer(self._matcher.compute_bitmask(), "<u4")[: vocabulary.num_words]
        mask = words & allowed
        if self._matcher.is_accepting():
            mask |= vocabulary.stops
        self._check()
        if not mask.any():
            raise self._failed("this model has no token that it allows next")
        return mask.astype("<u4", copy=False).tobytes()

    def forced(self) -> list[int]:
        return self._matcher.compute_ff_tokens()

    def num_allowed(self, token_ids: Sequence[int]) -> int:
        text = next((k for k, i in enumerate(token_ids) if not self._is_own(i)), len(token_ids))
        return self._matcher.validate_tokens(list(token_ids[:text])) if text else 0

    def fork(self) -> "MatcherConstraint":
        return MatcherConstraint(
            self._matcher.deep_copy(),
            self._vocabulary,
            is_first=self._is_first,
            param=self._param,
            triggers=self._triggers,
        )

    def _is_own(self, token_id: int) -> bool:
        triggers = self._triggers
        is_trigger = triggers is not None and bool(triggers[token_id // 32] >> token_id % 32 & 1)
        return is_trigger or self._vocabulary.is_text(token_id)

    def _check(self) -> None:
        """The parser tells of what went wrong only if asked."""
        if self._matcher.is_error():
            raise self._failed(reason_of(self._matcher.get_error()))

    def _failed(self, reason: str) -> InvalidRequest:
        return InvalidRequest(
            f"{self._param}: the answer cannot go on: {reason}. Ask for something simpler.",
            param=self._param,
        )


def reason_of(error: str) -> str:
    """The parser's own words, without its state behind them."""
    said = error.split("\n<state>")[0].split("; consider")[0].split(". Enable 'coerce")[0]
    reason = " ".join(said.replace("Unimplemented keys: ", "unsupported keywords ").split())
    return reason[:300].rstrip(".")
