"""What followed the same tokens before, and how often that was right. Knows token ids only.

Nothing here can change a token that is drawn, only how many are drawn in one step.
"""

from dataclasses import dataclass, field

from llamastream.engine.runner import Int32

# Repeated tokens from which on a match is of the kind, and how often the token behind it is the
# next one as long as nothing is known of the sequence (measured: docs/LOG.md).
KINDS = ((1, 0.2), (2, 0.5), (5, 0.9))
LONGEST = KINDS[-1][0]
LEARNING_RATE = 0.15  # weight of one more token in the running share that was right
RECOVERY_RATE = 0.02  # of the way back per step without a draft, for text that begins to repeat


@dataclass(slots=True)
class Drafting:
    """What was learnt of one sequence: the share of right guesses for each kind of match."""

    odds: list[float] = field(default_factory=lambda: [odds for _, odds in KINDS])
    kind: int = 0  # of the last draft
    pause: int = 0  # steps until the text is looked at again

    def learn(self, num_drafted: int, num_accepted: int) -> None:
        """So many of the last draft's tokens were drawn, from its first on."""
        odds, kind = self.odds, self.kind
        for _ in range(num_accepted):
            odds[kind] += LEARNING_RATE * (1 - odds[kind])
        if num_accepted < num_drafted:
            odds[kind] -= LEARNING_RATE * odds[kind]

    def recover(self) -> None:
        """A step without a draft: what was learnt from wrong ones is slowly forgotten."""
        for kind, (_, odds) in enumerate(KINDS):
            self.odds[kind] += max(RECOVERY_RATE * (odds - self.odds[kind]), 0.0)


def find_match(ids: Int32) -> tuple[int, int]:
    """Where the text behind an earlier copy of the end of `ids` starts, and that copy's length.

    The longest copy, as far as LONGEST; the latest of those. (0, 0) if there is none. A copy that
    ends within the first LONGEST - 1 tokens is not seen, so that none reaches over their beginning.
    No index is kept: this reads 4 bytes per token, attention thousands.
    """
    first = LONGEST - 1
    (ends,) = (ids[first:-1] == ids[-1]).nonzero()
    if not len(ends):
        return 0, 0
    ends, length = ends + first, 1
    while length < LONGEST:
        longer = ends[ids[ends - length] == ids[-1 - length]]
        if not len(longer):
            break
        ends, length = longer, length + 1
    return int(ends[-1]) + 1, length


def kind_of(length: int) -> int:
    """The kind of a match, -1 for none."""
    return sum(length >= least for least, _ in KINDS) - 1
