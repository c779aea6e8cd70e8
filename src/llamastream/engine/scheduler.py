"""Which sequences get how many tokens in the next step. Knows no arrays and no runner.

One rule, no phases (vLLM's): every step gives sequences tokens until `num_computed_tokens` reaches
`num_tokens`, under one token budget. Chunked prefill, prefix hits, resumed and preempted sequences
are the same case. The invariant: of each key, the running ones and then the waiting ones are in the
order of arrival, so the last running one is always the one to preempt. Whose key's turn it is,
fairness.py says.
"""

import time
from collections import defaultdict, deque
from collections.abc import Collection, Iterator
from typing import NamedTuple

from llamastream.config import EngineConfig
from llamastream.engine.block_manager import BlockManager, NoFreeBlocks
from llamastream.engine.fairness import Share, Shares, newest_of_largest
from llamastream.engine.pace import Pace
from llamastream.engine.sequence import Sequence


class Scheduled(NamedTuple):
    """The next `num_tokens` tokens of a sequence, starting at its num_computed_tokens.

    Those beyond its num_tokens are drafts (speculation.py), or expected.
    """

    seq: Sequence
    num_tokens: int


class Scheduler:
    """Owns the queues and the running sequences; blocks are taken and freed here only."""

    def __init__(self, blocks: BlockManager, config: EngineConfig) -> None:
        self.blocks = blocks
        self._max_num_seqs = config.max_num_seqs
        self._max_num_batched_tokens = config.max_num_batched_tokens
        self._max_prefill_beside_decode = config.max_prefill_beside_decode
        self.pace = Pace()  # asked where no number is given
        self._shares = Shares()
        # Of the step that is being put together:
        self._scheduled: list[Scheduled] = []
        self._budget = 0  # tokens that prompts may still have
        self.running: list[Sequence] = []

    def __iter__(self) -> Iterator[Sequence]:
        yield from self.running
        yield from self.waiting

    @property
    def waiting(self) -> Iterator[Sequence]:
        """Key by key, each key's in the order in which they will run."""
        return self._shares.waiting

    @property
    def num_waiting(self) -> int:
        return self._shares.num_waiting

    def add(self, seq: Sequence) -> None:
        self._shares.add(seq)

    def remove(self, seq: Sequence) -> None:
        """Forget a finished or cancelled sequence and free its blocks."""
        is_running = bool(seq.block_table)
        if is_running:
            self.running.remove(seq)
            self.blocks.free(seq)
        self._shares.remove(seq, is_running=is_running)

    def schedule(self) -> list[Scheduled]:
        """One entry per sequence of the next step. Decodes come first, and beside them prompts
        get a share only, so that none of them makes answers stutter.

        Takes blocks, and preempts when there are none, or when a key has more than its share. Empty
        only when there is no sequence at all, or none that does not wait for its last token or for
        the mask of its next one: the token behind which that is drawn is not given before.
        """
        self._scheduled = []
        self._schedule_decodes()
        num_decodes = len(self._scheduled)
        self._shares.count_decodes((seq for seq, _ in self._scheduled), num_decodes)
        self._budget = self._max_num_batched_tokens - num_decodes
        if num_decodes:
            self._budget = min(self._budget, self._prefill_beside(num_decodes))
        if num_decodes < len(self.running) or self.num_waiting:
            self._schedule_prompts()
        self.pace.expect(num_decodes, sum(num for _, num in self._scheduled) - num_decodes)
        return self._scheduled

    def may_preempt(self) -> bool:
        """Whether the next `schedule` may preempt a sequence, whose last token must then be known.

        True more often than it does.
        """
        if self.blocks.num_free_blocks < len(self.running):
            return True
        heads = (share.waiting[0] for share in self._shares if share.waiting)
        return any(next(self._shares.giving_way(seq, self.running), None) for seq in heads)

    def check_integrity(self) -> None:
        """Assert that the counts by key are those of the sequences."""
        self._shares.check_integrity(self.running)
        assert all(seq.block_table for seq in self.running)
        assert not any(seq.block_table for seq in self.waiting)

    def _prefill_beside(self, num_decodes: int) -> int:
        """So many prompt tokens that such a step takes about as long whatever it continues."""
        most = self._max_prefill_beside_decode
        if most is None:
            return self.pace.num_prompt_tokens(num_decodes, self._max_num_batched_tokens)
        return max(most - num_decodes, -(-most // 4))

    def _schedule_decodes(self) -> None:
        for seq in tuple(self.running):
            # One that was preempted in this loop has no blocks any more.
            if seq.is_decoding and seq.block_table and self._grow(seq):
                self._scheduled.append(Scheduled(seq, 1))

    def _grow(self, seq: Sequence) -> bool:
        """Find room for the token of `seq`; False if only its own preemption made room."""
        while True:
            try:
                self.blocks.grow(seq)
                return True
            except NoFreeBlocks:
                victim = newest_of_largest(self.running)
                self._preempt(victim)
                if victim is seq:
                    return False

    def _preempt(self, seq: Sequence) -> None:
        """Back to the head of its queue; the prefix cache may keep what was computed."""
        self.running.remove(seq)
        self.blocks.free(seq)
        self._scheduled = [entry for entry in self._scheduled if entry.seq is not seq]
        seq.num_preempted_tokens = max(seq.num_preempted_tokens, seq.num_computed_tokens)
        seq.num_computed_tokens = 0
        self._shares.put_back(seq)

    def _schedule_prompts(self) -> None:
        """Chunks of prompts that are under way, and newcomers behind them, oldest first; between
        keys, the one that was given least goes first."""
        under_way = defaultdict[str, deque[Sequence]](deque)
        for seq in self.running:
            if seq.num_tokens - seq.num_computed_tokens > 1 or seq.num_ahead:
                under_way[seq.scope].append(seq)
        turns = [share for share in self._shares if share.waiting or share.scope in under_way]
        while turns and self._budget > 0:
            share = min(turns, key=lambda share: share.num_tokens)
            next_one = self._next_prompt(share, under_way[share.scope])
            if next_one is None:
                turns.remove(share)
                continue
            remaining = next_one.num_tokens - next_one.num_computed_tokens - next_one.lacks_mask
            remaining += next_one.num_ahead
            if not remaining:
                continue
            entry = Scheduled(next_one, min(remaining, self._budget))
            self._scheduled.append(entry)
            self._budget -= entry.num_tokens
            self._shares.count_prompt(*entry)

    def _next_prompt(self, share: Share, under_way: deque[Sequence]) -> Sequence | None:
        while under_way:
            seq = under_way.popleft()
            if seq.block_table:  # and was not preempted for one that came in before it
                return seq
        if share.waiting and self._admit(share.waiting[0]):
            return self.running[-1]
        return None

    def _admit(self, seq: Sequence) -> bool:
        """Let the first of its key's queue run, with the blocks of all its tokens, if there is
        room or if other keys make it."""
        if not self._allocate(seq):
            for victim in self._giving_way(seq):
                self._give_back(victim)
                self._preempt(victim)
            if not self._allocate(seq):
                return False
        if seq.num_cached_tokens is None:
            seq.num_cached_tokens = min(seq.num_computed_tokens, seq.num_prompt_tokens)
            seq.queue_s = time.perf_counter() - seq.admitted_s
        self._shares.start(seq)
        self.running.append(seq)
        return True

    def _allocate(self, seq: Sequence) -> bool:
        """Blocks for a newcomer, if one per running sequence stays free: else the next token of
        those would preempt it at once."""
        if len(self.running) >= self._max_num_seqs:
            return False
        try:
            seq.num_computed_tokens = self.blocks.allocate(seq, keep_free=len(self.running))
        except NoFreeBlocks:
            return False
        return True

    def _give_back(self, seq: Sequence) -> None:
        """Undo what this step has given to `seq`, if anything."""
        for scheduled, num_tokens in self._scheduled:
            if scheduled is seq:
                self._budget += num_tokens
                self._shares.count_prompt(seq, num_tokens, sign=-1)

    def _giving_way(self, seq: Sequence) -> Collection[Sequence]:
        """Whom to preempt so that `seq` has room; nobody if that would not be enough."""
        if len(self._shares) == 1:
            return ()
        victims: list[Sequence] = []
        for victim in self._shares.giving_way(seq, self.running):
            if victim.num_unknown_tokens:
                return ()
            victims.append(victim)
            num_left = len(self.running) - len(victims)
            if num_left < self._max_num_seqs and self.blocks.would_fit(
                seq, keep_free=num_left, freed=victims
            ):
                return victims
        return ()
