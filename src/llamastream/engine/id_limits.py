"""Ids that a request itself rules out, as a grammar: all but some, and ends that come too early.

vLLM's `allowed_token_ids` and `min_tokens`. Knows ids only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llamastream.errors import InvalidRequest
from llamastream.sampling import SamplingParams
from llamastream.types import Constraint, Grammar

Words = NDArray[np.uint32]


class IdLimits(Grammar):
    """Raises InvalidRequest where nothing could come first."""

    param = "allowed_token_ids"

    def __init__(self, sampling: SamplingParams, vocab_size: int) -> None:
        self._min_tokens, given = sampling.min_tokens, sampling.allowed_token_ids
        allowed = np.full(vocab_size, given is None)
        allowed[list(given or ())] = True
        self._late = _words(allowed)
        allowed[[i for i in sampling.stop_token_ids if i < vocab_size]] = False
        self._early = _words(allowed)
        if self._min_tokens and not self._early.any():
            raise InvalidRequest(
                "min_tokens and allowed_token_ids exclude each other: all that is allowed ends the "
                "answer. Allow another id.",
                param="allowed_token_ids",
            )

    @staticmethod
    def of(sampling: SamplingParams, vocab_size: int) -> "IdLimits | None":
        """None where nothing is ruled out."""
        if not sampling.min_tokens and sampling.allowed_token_ids is None:
            return None
        return IdLimits(sampling, vocab_size)

    def start(self) -> Constraint:
        return _Limited(self._early, self._late, self._min_tokens)


@dataclass(slots=True)
class _Limited(Constraint):
    """`early`, `late`: (ceil(V / 32),) the ids that may be among the first tokens, and later."""

    early: Words
    late: Words
    num_early: int  # tokens still to come before an end may

    def append(self, token_ids: Sequence[int]) -> None:
        self.num_early = max(self.num_early - len(token_ids), 0)

    def mask(self) -> bytes:
        return (self.early if self.num_early else self.late).astype("<u4").tobytes()

    def forced(self) -> list[int]:
        return []

    def num_allowed(self, token_ids: Sequence[int]) -> int:
        for place, token_id in enumerate(token_ids):
            words = self.early if place < self.num_early else self.late
            if not int(words[token_id // 32]) >> token_id % 32 & 1:
                return place
        return len(token_ids)

    def fork(self) -> Constraint:
        return _Limited(self.early, self.late, self.num_early)


def _words(allowed: NDArray[np.bool_]) -> Words:
    """A bit per id, least significant first."""
    padded = np.zeros(-(-len(allowed) // 32) * 32, np.bool_)
    padded[: len(allowed)] = allowed
    return np.packbits(padded, bitorder="little").view("<u4").astype(np.uint32)
