"""One request inside the engine: its tokens, its blocks and how far it was computed.

Knows neither scheduler nor runner. The invariant: num_computed_tokens < num_tokens <=
max_num_tokens while the sequence lives, and token_ids[:num_tokens] only ever grows.

The last token may be unknown yet, where a step was begun before the result of the one before it
had come. It counts in num_tokens, as to be computed next, and not among the outputs.
"""

import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from llamastream.engine.drafting import Drafting
from llamastream.messages import FinishReason
from llamastream.sampling import SamplingParams


@dataclass(slots=True, eq=False)
class Sequence:
    """Compared by identity. `token_ids` (max_num_tokens,) int32 has its final size from the start.

    `block_table` and `num_registered_blocks` belong to BlockManager, `drafting` and what is behind
    num_tokens to Speculation. `block_hashes` outlive a preemption: they depend on tokens only.
    """

    request_id: str
    token_ids: NDArray[np.int32]
    num_prompt_tokens: int
    num_tokens: int
    sampling: SamplingParams
    seed: int
    cache_salt: bytes = b""
    num_computed_tokens: int = 0
    num_unknown_tokens: int = 0
    num_cached_tokens: int | None = None  # of the prompt, None until first scheduled
    block_table: list[int] = field(default_factory=list)
    block_hashes: list[bytes] = field(default_factory=list)
    num_registered_blocks: int = 0  # leading blocks that the prefix cache was told of
    admitted_s: float = field(default_factory=time.perf_counter)
    queue_s: float | None = None  # until first scheduled
    drafting: Drafting = field(default_factory=Drafting)

    @property
    def max_num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_output_tokens(self) -> int:
        return self.num_tokens - self.num_unknown_tokens - self.num_prompt_tokens

    @property
    def is_full(self) -> bool:
        """Whether no more can be drawn, be the last token known or not."""
        return self.num_tokens == len(self.token_ids)

    def expect(self, row: int) -> None:
        """One token more, which row `row` of the step that is computed draws (runner.py)."""
        self.token_ids[self.num_tokens] = -1 - row
        self.num_tokens += 1
        self.num_unknown_tokens += 1

    def append(self, token_id: int) -> None:
        """The oldest unknown token is known now; if there is none, it is one more."""
        if self.num_unknown_tokens:
            self.token_ids[self.num_tokens - self.num_unknown_tokens] = token_id
            self.num_unknown_tokens -= 1
        else:
            self.token_ids[self.num_tokens] = token_id
            self.num_tokens += 1

    def finish_reason(self) -> FinishReason | None:
        """Why the last known token ends the sequence, None if not. A stop token goes first."""
        num_known = self.num_tokens - self.num_unknown_tokens
        if num_known == self.num_prompt_tokens:
            return None
        stop_token_ids = self.sampling.stop_token_ids
        if stop_token_ids and int(self.token_ids[num_known - 1]) in stop_token_ids:
            return FinishReason.STOP
        return FinishReason.LENGTH if num_known >= len(self.token_ids) else None
