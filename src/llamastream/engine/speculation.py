"""Drafts the next tokens of sequences whose text repeats, so that one step draws several.

Prompt lookup: what followed the same tokens before is computed along with the last token, and kept
as far as it is what the sampler draws. What a grammar forces is a draft as well, and no more. A
draw is a function of ids, seed and position, so a draft changes how long an answer takes and
nothing else; it may depend on load, time and chance.

    token_ids   ... last | draft  draft  draft     written behind num_tokens
    drawn           after  after  after  after     kept up to the first that differs from its draft
"""

import numpy as np

from llamastream.config import EngineConfig
from llamastream.engine.block_manager import BlockManager
from llamastream.engine.drafting import find_match, kind_of
from llamastream.engine.masking import Draft
from llamastream.engine.pace import FIXED_ROWS
from llamastream.engine.runner import Int32
from llamastream.engine.scheduler import Scheduled
from llamastream.engine.sequence import Sequence
from llamastream.types import Constraint

MAX_DRAFT = 16  # tokens of one step, shared out: a lone stream's step then takes thrice as long
MAX_EXPECTED = 64  # tokens that get masks at once: those that come first wait for all
MAX_SEQS = 8  # beside more, a row costs about what a token does


class Step:
    """What a step is expected to give, and to cost in rows: `fixed_rows` beside its own."""

    def __init__(self, num_seqs: int, fixed_rows: float = FIXED_ROWS) -> None:
        self.num_seqs = num_seqs
        self._num_tokens = float(num_seqs)
        self._cost = fixed_rows + num_seqs

    @property
    def rate(self) -> float:
        """Tokens per row: what one more row must promise in order to pay."""
        return self._num_tokens / self._cost

    @property
    def share(self) -> int:
        """Tokens that may be drafted for one sequence."""
        return MAX_DRAFT // self.num_seqs

    def take(self, odds: float, limit: int) -> int:
        """Add the rows of a draft while they pay, its tokens being right at `odds` each."""
        count, promise = 0, odds
        while count < limit and promise > self.rate:
            self._num_tokens += promise
            self._cost += 1
            count, promise = count + 1, promise * odds
        return count


class Speculation:
    """Asked once per step, when all else is scheduled."""

    def __init__(self, config: EngineConfig, *, looks_up: bool = True, forces: bool = True) -> None:
        self._looks_up, self._forces = looks_up, forces
        self._is_on = config.speculation == "auto"
        self._max_num_batched_tokens = config.max_num_batched_tokens
        self.fixed_rows = FIXED_ROWS  # of a step, as measured by now
        self.num_drafted = 0
        self.num_accepted = 0

    def may_draft(self, num_seqs: int) -> bool:
        """Whether steps of so many sequences hold drafts: those are made from known tokens."""
        return self._is_on and num_seqs <= MAX_SEQS

    def extend(
        self, scheduled: list[Scheduled], blocks: BlockManager, *, keep_free: int
    ) -> list[Scheduled]:
        """`scheduled` with drafts for the sequences that decode, written behind their last tokens.

        Uses the budget that is left over, and takes blocks while more than `keep_free` are free.
        """
        if not self.may_draft(len(scheduled)):
            return scheduled
        budget = self._max_num_batched_tokens - sum(num_tokens for _, num_tokens in scheduled)
        step = Step(len(scheduled), self.fixed_rows)
        extended = []
        for seq, num_tokens in scheduled:
            is_decode = num_tokens == 1 and seq.num_computed_tokens + 1 == seq.num_tokens
            if is_decode and not seq.num_expected_tokens:
                # The last token that may be drawn is never computed.
                limit = min(budget, seq.max_num_tokens - seq.num_tokens - 1)
                draft = self.propose(seq, step, limit)
                if len(draft):
                    draft = draft[: blocks.reserve(seq, len(draft), keep_free=keep_free)]
                    seq.token_ids[seq.num_tokens : seq.num_tokens + len(draft)] = draft
                    num_tokens += len(draft)
                    budget -= len(draft)
            extended.append(Scheduled(seq, num_tokens))
        return extended

    def propose(self, seq: Sequence, step: Step, limit: int) -> Int32:
        """What may come next, `limit` tokens at most: those that are likely to pay in `step`."""
        drafting, ids = seq.drafting, seq.token_ids[: seq.num_tokens]
        if seq.guide is not None:
            drafts = np.array(seq.guide.drafts, np.int32)
            odds = 1.0 if seq.guide.is_forced else drafting.odds[drafting.kind]
            return drafts[: step.take(odds, min(len(drafts), limit, step.share))]
        if drafting.pause:
            drafting.pause -= 1
        elif max(drafting.odds) > step.rate:
            drafting.pause = step.num_seqs - 1  # so that texts are looked at about once per step
            start, length = find_match(ids)
            drafting.kind = kind_of(length)
            if length:
                num_drafted = step.take(drafting.odds[drafting.kind], min(limit, step.share))
                if num_drafted:
                    drafting.pause = 0
                    # A repetition that is shorter than the draft repeats itself.
                    return np.resize(ids[start:], num_drafted)
        drafting.recover()
        return ids[:0]

    def guided(
        self, seq: Sequence, constraint: Constraint, num_tokens: int, num_seqs: int
    ) -> Draft:
        """What may come behind the first `num_tokens` of a sequence that keeps to a grammar, in a
        step of `num_seqs`. Called before that is scheduled, by a mask thread: each draft needs a
        mask of its own. The engine thread leaves `drafting` alone meanwhile."""
        if seq.num_expected_tokens:
            stop = num_tokens + min(seq.num_expected_tokens, MAX_EXPECTED)
            draft = seq.token_ids[num_tokens:stop].tolist()
            return Draft(draft[: constraint.num_allowed(draft)], is_forced=False)
        limit = min(seq.max_num_tokens - num_tokens - 1, Step(num_seqs, self.fixed_rows).share)
        if limit <= 0 or not self.may_draft(num_seqs):
            return Draft([], is_forced=False)
        if self._forces and (forced := constraint.forced()[:limit]):
            return Draft(forced, is_forced=True)
        drafting, ids = seq.drafting, seq.token_ids[:num_tokens]
        start, length = find_match(ids) if self._looks_up else (0, 0)
        drafting.kind = kind_of(length)
        count = (
            Step(num_seqs, self.fixed_rows).take(drafting.odds[drafting.kind], limit)
            if length
            else 0
        )
        if not count:
            drafting.recover()
            return Draft([], is_forced=False)
        draft = np.resize(ids[start:], count).tolist()
        return Draft(draft[: constraint.num_allowed(draft)], is_forced=False)

    def learn(self, seq: Sequence, num_drafted: int, num_accepted: int) -> None:
        """The first `num_accepted` tokens of the last draft of `seq` were drawn."""
        self.num_drafted += num_drafted
        self.num_accepted += num_accepted
        if seq.guide is None or not seq.guide.is_forced:
            seq.drafting.learn(num_drafted, num_accepted)
