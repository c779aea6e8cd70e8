"""Whose turn it is when several keys want the same step. Knows no blocks and no budget.

For each key the tokens are counted that were computed for it, of prompts and answers; the key with
the least goes first, and within a key who came first. A key that was away comes back a little
behind the others, so that it is served at once, and no further, so that nothing is saved up.
Source: virtual token counters, arXiv:2401.00588, section 4; that running ones give way is ours.

    counted   A ████████████████████  gives way while others wait
              B ██████████████▌
              C ███████████           came back: behind the least of those who have work

The invariant: a share is in here exactly while its key has sequences. The order in which sequences
are computed changes no token, so none of this does.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from llamastream.engine.sequence import Sequence

# In tokens. A key so far ahead gives up a sequence to one that has fewer: so no key waits for the
# end of another's answers, and change of places is rare where all have much to do.
QUANTUM = 128
# So far behind the others a key comes back: what it may have at once, before it takes turns.
CREDIT = 512


@dataclass(slots=True, eq=False)
class Share:
    """What one key has in the engine. `num_tokens` counts since anybody last had none."""

    scope: str
    num_tokens: int = 0
    base: int = 0  # what the others had when it came back, behind which it was put
    num_running: int = 0
    waiting: deque[Sequence] = field(default_factory=deque)

    def gives_way_to(self, other: "Share", size: int, num_running: int) -> bool:
        """Whether one of its `num_running` sequences is preempted for one of `other`, of `size`
        tokens: what may be lost by that is paid for first."""
        ahead = self.num_tokens - other.num_tokens
        return num_running > other.num_running and ahead >= max(QUANTUM, size)


class Shares:
    """The waiting sequences, and of the running ones how many each key has."""

    def __init__(self) -> None:
        self._shares: dict[str, Share] = {}
        self._left: dict[str, int] = {}  # counts of keys that have nothing while others do
        self.num_waiting = 0

    def __iter__(self) -> Iterator[Share]:
        return iter(self._shares.values())

    def __len__(self) -> int:
        return len(self._shares)

    @property
    def waiting(self) -> Iterator[Sequence]:
        for share in self:
            yield from share.waiting

    def of(self, seq: Sequence) -> Share:
        return self._shares[seq.scope]

    def add(self, seq: Sequence) -> None:
        """A new sequence: the last of its key's."""
        share = self._shares.get(seq.scope)
        if share is None or not share.waiting:
            share = self._come_back(seq)
        share.waiting.append(seq)
        self.num_waiting += 1

    def _come_back(self, seq: Sequence) -> Share:
        """The share of a key that had nothing waiting. What it had in reserve is cut."""
        share = self._shares.pop(seq.scope, None)
        others = [other for other in self if other.waiting] or list(self)
        base = min((max(other.num_tokens, other.base) for other in others), default=0)
        least = base - max(CREDIT, seq.num_tokens) if others else 0
        if share is None:
            share = Share(seq.scope, self._left.pop(seq.scope, least))
        share.num_tokens, share.base = max(share.num_tokens, least), base
        self._shares[seq.scope] = share
        return share

    def start(self, seq: Sequence) -> None:
        """The first one that its key has waiting is running now."""
        share = self.of(seq)
        assert share.waiting.popleft() is seq
        share.num_running += 1
        self.num_waiting -= 1

    def put_back(self, seq: Sequence) -> None:
        """A running one waits again, before all others of its key."""
        share = self.of(seq)
        share.waiting.appendleft(seq)
        share.num_running -= 1
        self.num_waiting += 1

    def remove(self, seq: Sequence, *, is_running: bool) -> None:
        share = self.of(seq)
        if is_running:
            share.num_running -= 1
        else:
            share.waiting.remove(seq)
            self.num_waiting -= 1
        if not share.num_running and not share.waiting:
            del self._shares[seq.scope]
            self._left[seq.scope] = share.num_tokens
            if not self._shares:
                self._left.clear()

    def count_decodes(self, seqs: Iterable[Sequence], count: int) -> None:
        """One token of each of `count` sequences is computed."""
        if len(self._shares) == 1:
            next(iter(self)).num_tokens += count
            return
        for seq in seqs:
            self._shares[seq.scope].num_tokens += 1

    def count_prompt(self, seq: Sequence, num_tokens: int, *, sign: int = 1) -> None:
        """The next `num_tokens` of `seq` are computed; with sign -1 they are not, after all.

        Those that a preemption lost are free.
        """
        known = max(seq.num_preempted_tokens - seq.num_computed_tokens, 0)
        self.of(seq).num_tokens += sign * max(num_tokens - known, 0)

    def giving_way(self, seq: Sequence, running: Iterable[Sequence]) -> Iterator[Sequence]:
        """The running sequences that would make room for `seq`, which waits, in their order: each
        time the newest of the key that has most."""
        share, left = self.of(seq), list(running)
        num_running = {other: other.num_running for other in self}
        while True:
            giving = [
                other
                for other, count in num_running.items()
                if other.gives_way_to(share, seq.num_tokens, count)
            ]
            if not giving:
                return
            giver = max(giving, key=lambda other: (num_running[other], other.num_tokens))
            victim = newest(left, giver.scope)
            num_running[giver] -= 1
            left.remove(victim)
            yield victim

    def check_integrity(self, running: Iterable[Sequence]) -> None:
        """Assert the module's invariant, `running` being all that run."""
        counts = Counter(seq.scope for seq in running)
        assert self.num_waiting == sum(len(share.waiting) for share in self)
        assert counts.keys() <= self._shares.keys()
        for share in self:
            assert share.num_running == counts[share.scope]
            assert share.num_running or share.waiting, "a key without sequences is still in"
            assert all(seq.scope == share.scope for seq in share.waiting)


def newest(running: Iterable[Sequence], scope: str) -> Sequence:
    """The one of a key that came last: those of one key run in the order in which they came."""
    return next(seq for seq in reversed(list(running)) if seq.scope == scope)


def newest_of_largest(running: list[Sequence]) -> Sequence:
    """The newest sequence of the key that holds most blocks."""
    num_blocks = Counter[str]()
    for seq in running:
        num_blocks[seq.scope] += len(seq.block_table)
    return newest(running, num_blocks.most_common(1)[0][0])
