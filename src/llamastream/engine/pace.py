"""What steps take on this machine with this model: how many prompt tokens fit beside answers, and
what a draft costs.

Knows no sequences, and changes no token: what a sequence is given never depends on how it was
scheduled.
"""

LONGEST = 2.7  # times a step of answers alone that one with prompts may take: the aim is 3 at p99
LEAST = 8  # prompt tokens, so that prompts come forward on the slowest machine
RATE = 0.2  # weight of the last step in what is remembered
# What a step costs beside its rows, in rows, until it is known: reading the weights. It was 6.5 for
# a small model at short contexts, less at long ones (docs/LOG.md), and is 15 for one of 7B.
FIXED_ROWS = 5.0
MOST_FIXED_ROWS = 64.0


class Pace:
    """Told of every step, asked before each that continues answers."""

    def __init__(self) -> None:
        self._answers_s: float | None = None  # of a step of answers alone
        self._token_s: float | None = None  # of one prompt token more
        self._num_answers = 0.0  # in a step of answers alone
        self._draft_s: float | None = None  # of one drafted token more
        self._expected = (0, 0)  # answers and prompt tokens of the step at hand

    def expect(self, num_answers: int, num_prompt_tokens: int) -> None:
        """This is the step that comes next."""
        self._expected = (num_answers, num_prompt_tokens)

    def took(self, elapsed_s: float, num_tokens: int) -> None:
        """The step took so long. One with more tokens than were expected has drafts."""
        num_answers, num_prompt_tokens = self._expected
        num_drafted = num_tokens - num_answers - num_prompt_tokens
        if not num_drafted:
            self.learn(num_answers, num_prompt_tokens, elapsed_s)
        elif not num_prompt_tokens and self._answers_s is not None:
            more_s = max(elapsed_s - self._answers_s, 0.0)
            self._draft_s = _mean(self._draft_s, more_s / num_drafted)

    def learn(self, num_answers: int, num_prompt_tokens: int, elapsed_s: float) -> None:
        if not num_prompt_tokens:
            self._num_answers = _mean(self._num_answers if self._answers_s else None, num_answers)
            self._answers_s = _mean(self._answers_s, elapsed_s)
        elif not num_answers:
            # Reading the weights is in it as well: of a short prompt that is most of the time.
            if self._token_s is None or num_prompt_tokens >= LEAST:
                self._token_s = _mean(self._token_s, elapsed_s / num_prompt_tokens)
        elif self._answers_s is not None:
            more_s = max(elapsed_s - self._alone_s(num_answers), 0.0)
            self._token_s = _mean(self._token_s, more_s / num_prompt_tokens)

    @property
    def fixed_rows(self) -> float:
        """What a step costs beside its rows, in rows."""
        if self._answers_s is None or self._draft_s is None:
            return FIXED_ROWS
        if self._answers_s >= (self._num_answers + MOST_FIXED_ROWS) * self._draft_s:
            return MOST_FIXED_ROWS
        return max(self._answers_s / self._draft_s - self._num_answers, 1.0)

    def num_prompt_tokens(self, num_answers: int, most: int) -> int:
        """For the next step, which continues so many answers; never more than `most`."""
        if self._answers_s is None or not self._token_s:
            return min(LEAST, most)
        fitting = int((LONGEST - 1) * self._alone_s(num_answers) / self._token_s)
        return min(max(fitting, LEAST), most)

    def _alone_s(self, num_answers: int) -> float:
        """A step of so many answers alone, from those that there were: while prompts keep coming
        there are none, and more answers than in the last one."""
        assert self._answers_s is not None
        fixed = self.fixed_rows
        return self._answers_s * (num_answers + fixed) / (self._num_answers + fixed)


def _mean(old: float | None, new: float) -> float:
    return new if old is None else old + RATE * (new - old)
