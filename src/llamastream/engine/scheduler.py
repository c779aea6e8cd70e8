"""Which sequences get how many tokens in the next step. Knows no arrays and no runner.

One rule, no phases (vLLM's): every step gives sequences tokens until `num_computed_tokens` reaches
`num_tokens`, under one token budget. Chunked prefill, prefix hits, resumed and preempted sequences
are the same case. The invariant: `running` then `waiting` is the order of arrival, so the last
running sequence is always the one to preempt.
"""

import time
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from llamastream.config import EngineConfig
from llamastream.engine.block_manager import BlockManager, NoFreeBlocks
from llamastream.engine.sequence import Sequence


class Scheduled(NamedTuple):
    """The next `num_tokens` tokens of a sequence, starting at its num_computed_tokens.

    Those beyond its num_tokens are drafts (speculation.py).
    """

    seq: Sequence
    num_tokens: int


class Scheduler:
    """Owns the queue and the running sequences; blocks are taken and freed here only."""

    def __init__(self, blocks: BlockManager, config: EngineConfig) -> None:
        self._blocks = blocks
        self._max_num_seqs = config.max_num_seqs
        self._max_num_batched_tokens = config.max_num_batched_tokens
        self._max_prefill_beside_decode = config.max_prefill_beside_decode
        self.running: list[Sequence] = []
        self.waiting: deque[Sequence] = deque()

    def __iter__(self) -> Iterator[Sequence]:
        yield from self.running
        yield from self.waiting

    def add(self, seq: Sequence) -> None:
        self.waiting.append(seq)

    def remove(self, seq: Sequence) -> None:
        """Forget a finished or cancelled sequence and free its blocks."""
        if seq.block_table:
            self.running.remove(seq)
            self._blocks.free(seq)
        else:
            self.waiting.remove(seq)

    def schedule(self) -> list[Scheduled]:
        """One entry per sequence of the next step. Decodes come first, and beside them prompts
        get a share only, so that none of them makes answers stutter.

        Takes blocks, and preempts (latest arrival first) when there are none. Empty only when
        there is no sequence at all, or none that does not wait for its last token.
        """
        scheduled = self._schedule_decodes()
        budget = self._max_num_batched_tokens - len(scheduled)
        if scheduled:
            budget = min(budget, self._prefill_beside(len(scheduled)))
        if len(scheduled) < len(self.running):
            budget = self._schedule_prefills(scheduled, budget)
        self._admit(scheduled, budget)
        return scheduled

    def _prefill_beside(self, num_decodes: int) -> int:
        """So many prompt tokens that such a step takes about as long whatever it continues."""
        most = self._max_prefill_beside_decode
        return max(most - num_decodes, -(-most // 4))

    def _schedule_decodes(self) -> list[Scheduled]:
        scheduled = []
        index = 0
        while index < len(self.running):  # preemption shortens the list while we walk it
            seq = self.running[index]
            # A sequence that is full waits for the last token's id, which is in flight.
            is_full = seq.num_tokens == len(seq.token_ids)
            is_decode = seq.num_tokens - seq.num_computed_tokens == 1 and not is_full
            if is_decode and self._grow(seq):
                scheduled.append(Scheduled(seq, 1))
            index += 1
        return scheduled

    def _grow(self, seq: Sequence) -> bool:
        """Find room for the token of `seq`; False if only its own preemption made room."""
        while True:
            try:
                self._blocks.grow(seq)
                return True
            except NoFreeBlocks:
                victim = self.running.pop()
                self._preempt(victim)
                if victim is seq:
                    return False

    def _preempt(self, seq: Sequence) -> None:
        """Back to the head of the queue; the prefix cache may keep what was computed."""
        self._blocks.free(seq)
        seq.num_computed_tokens = 0
        self.waiting.appendleft(seq)

    def _schedule_prefills(self, scheduled: list[Scheduled], budget: int) -> int:
        """Chunks of prompts that are under way, oldest first. Returns the budget that is left."""
        for seq in self.running:
            remaining = seq.num_tokens - seq.num_computed_tokens
            if remaining > 1 and budget > 0:
                scheduled.append(Scheduled(seq, min(remaining, budget)))
                budget -= scheduled[-1].num_tokens
        return budget

    def _admit(self, scheduled: list[Scheduled], budget: int) -> None:
        """First come, first served. A sequence gets the blocks of all its tokens on entering.

        One block per running sequence is kept free, so that a newcomer is not preempted at once.
        """
        while self.waiting and budget > 0 and len(self.running) < self._max_num_seqs:
            seq = self.waiting[0]
            try:
                seq.num_computed_tokens = self._blocks.allocate(seq, keep_free=len(self.running))
            except NoFreeBlocks:
                return
            if seq.num_cached_tokens is None:
                seq.num_cached_tokens = min(seq.num_computed_tokens, seq.num_prompt_tokens)
                seq.queue_s = time.perf_counter() - seq.admitted_s
            self.running.append(self.waiting.popleft())
            remaining = seq.num_tokens - seq.num_computed_tokens
            scheduled.append(Scheduled(seq, min(remaining, budget)))
            budget -= scheduled[-1].num_tokens
