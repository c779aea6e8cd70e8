"""One request inside the engine: its tokens, its blocks and how far it was computed.

Knows neither scheduler nor runner. The invariant: num_computed_tokens < num_tokens <=
max_num_tokens while the sequence lives, and token_ids[:num_tokens] only ever grows.

The last token is unknown while the step that draws it is in flight. It counts in num_tokens, as to
be computed next, and not among the outputs.
"""

import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from llamastream.engine.drafting import Drafting
from llamastream.sampling import SamplingParams
from llamastream.types import BlockOwner, Constraint, FinishReason, Grammar


@dataclass(slots=True, eq=False)
class Guide:
    """What a grammar says of one sequence: Masking's. `masks`: of the tokens behind `num_known` of
    the sequence's and behind each of `drafts`, (ceil(V / 32),) words each."""

    grammar: Grammar
    constraint: Constraint | None = None  # that has been given num_consumed tokens
    num_consumed: int = 0
    num_asked: int = -1  # tokens behind which a mask was asked for last
    num_known: int = -1  # and is there
    masks: list[NDArray[np.uint32]] = field(default_factory=list)
    drafts: list[int] = field(default_factory=list)
    is_forced: bool = False  # nothing but the drafts can come next
    is_slow: bool = False  # nobody waits for its masks
    is_over: bool = False  # it failed


@dataclass(slots=True, eq=False)
class Sequence:
    """Compared by identity. `token_ids` (max_num_tokens,) int32 has its final size from the start.

    `block_table` and `num_registered_blocks` belong to BlockManager, `num_offered_blocks` to Spill,
    `drafting` and what is behind num_tokens to Speculation, `guide` to Masking. That and
    `block_hashes` outlive a preemption: they depend on tokens only.
    """

    request_id: str
    token_ids: NDArray[np.int32]
    num_prompt_tokens: int
    num_tokens: int
    sampling: SamplingParams
    seed: int
    cache_salt: bytes | None = b""  # None: it has no part in the prefix cache
    scope: str = ""  # whose it is: what fairness.py counts by
    prompt_logprobs: int | None = None  # alternatives for each prompt token but the first
    num_scored_tokens: int = 0  # of these, reported
    num_computed_tokens: int = 0
    num_preempted_tokens: int = 0  # computed once, and to be computed again
    num_unknown_tokens: int = 0  # or 1
    num_expected_tokens: int = 0  # behind num_tokens, believed to come next
    num_cached_tokens: int | None = None  # of the prompt, None until first scheduled
    block_table: list[int] = field(default_factory=list)
    block_hashes: list[bytes] = field(default_factory=list)
    num_registered_blocks: int = 0  # leading blocks that the prefix cache was told of
    owner: BlockOwner | None = None  # for whom they are kept on disk
    num_offered_blocks: int = 0  # leading blocks that are, or will be, if the disk can
    admitted_s: float = field(default_factory=time.perf_counter)
    queue_s: float | None = None  # until first scheduled
    drafting: Drafting = field(default_factory=Drafting)
    guide: Guide | None = None  # of one that keeps to a grammar

    @property
    def max_num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_output_tokens(self) -> int:
        return self.num_tokens - self.num_unknown_tokens - self.num_prompt_tokens

    @property
    def is_scored(self) -> bool:
        """Whether all that is to be reported of the prompt was."""
        return self.prompt_logprobs is None or self.num_scored_tokens == self.num_prompt_tokens - 1

    def rows_to_score(self, num_tokens: int) -> range:
        """Positions whose next token is of the prompt and to be reported with log-probabilities,
        in a step that computes `num_tokens` more."""
        start = self.num_scored_tokens
        if self.is_scored:
            return range(0)
        stop = min(self.num_computed_tokens + num_tokens, self.num_prompt_tokens - 1)
        return range(start, max(start, stop))

    @property
    def lacks_mask(self) -> bool:
        """Whether what may be drawn behind its last token is still to be found out."""
        return self.guide is not None and self.guide.num_known != self.num_tokens

    @property
    def is_decoding(self) -> bool:
        """Whether its last token alone is to be computed, and can be."""
        if self.num_tokens - self.num_computed_tokens != 1:
            return False
        if self.num_tokens == len(self.token_ids):  # full: that token is in flight
            return False
        return not (self.lacks_mask or self.num_ahead)

    @property
    def num_wanted_tokens(self) -> int:
        """What needs blocks to begin with."""
        return self.num_tokens + self.num_expected_tokens

    @property
    def num_ahead(self) -> int:
        """Tokens behind the last one that are to be computed along, all of them expected; where a
        grammar rules, those that have their masks."""
        if self.guide is None or not self.num_expected_tokens:
            return self.num_expected_tokens
        return 0 if self.lacks_mask else len(self.guide.drafts)

    def expect(self, row: int) -> None:
        """One token more, which row `row` of the step in flight draws (runner.py)."""
        self.token_ids[self.num_tokens] = -1 - row
        self.num_tokens += 1
        self.num_unknown_tokens = 1

    def append(self, token_id: int) -> None:
        """What was drawn: the token in flight, or one more. All that is expected behind one that
        was not is void."""
        if self.num_expected_tokens:
            is_right = int(self.token_ids[self.num_tokens]) == token_id
            self.num_expected_tokens = self.num_expected_tokens - 1 if is_right else 0
        if self.num_unknown_tokens:
            self.num_unknown_tokens = 0
        else:
            self.num_tokens += 1
        self.token_ids[self.num_tokens - 1] = token_id

    def finish_reason(self) -> FinishReason | None:
        """Why the last token, which is known, ends the sequence, None if it does not.

        A stop token goes first.
        """
        if self.num_tokens == self.num_prompt_tokens:
            return None
        if self.sampling.max_tokens == 0:
            return FinishReason.LENGTH
        stop_token_ids = self.sampling.stop_token_ids
        if stop_token_ids and int(self.token_ids[self.num_tokens - 1]) in stop_token_ids:
            return FinishReason.STOP
        return FinishReason.LENGTH if self.num_tokens >= len(self.token_ids) else None
