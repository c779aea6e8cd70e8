"""Tokens on their way to the journal: one transaction per step, and shown once it is committed.

The store takes from an answer's log what it does not have yet, so the journal never has a hole.
Where a step failed and answers may continue without, the next one brings its tokens; otherwise the
answer is refused.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from llamastream.errors import ChatError, Fenced, StoreUnavailable
from llamastream.generation.generation import Generation
from llamastream.generation.submission import Submission
from llamastream.records import Drawn

if TYPE_CHECKING:
    from llamastream.store.journal import Refused
    from llamastream.store.store import Store


class Journalling:
    def __init__(
        self,
        store: "Store",
        submissions: Mapping[str, Submission],
        *,
        may_continue: bool,
        on_refused: Callable[[Submission, ChatError], None],
    ) -> None:
        """`submissions`: what is in progress. `on_refused` hears what the store must not miss."""
        self._store = store
        self._submissions = submissions
        self._may_continue = may_continue
        self._on_refused = on_refused

    def write(self, generations: Iterable[Generation]) -> None:
        """Journal what these have drawn since the last call, and then show it."""
        sent: list[Submission] = []
        drawn: list[Drawn] = []
        for generation in generations:
            submission, num_tokens = self._submissions[generation.id], generation.num_tokens
            if submission.is_behind and submission.is_pending:
                generation.publish(num_tokens)
            else:
                sent.append(submission)
                drawn.append(Drawn(generation.id, generation.log, num_tokens))
        if drawn:
            future = self._store.append(drawn)
            for submission in sent:
                submission.outstanding = future
            future.add_done_callback(partial(self._on_committed, sent, drawn))

    async def settle(self, submission: Submission) -> None:
        """Return when nothing is outstanding: all is journalled, or refused, or is behind."""
        await submission.answered()
        if submission.is_behind and self._is_current(submission):
            self.write((submission.generation,))
            await submission.answered()

    def _on_committed(
        self, sent: list[Submission], drawn: list[Drawn], future: "asyncio.Future[Refused]"
    ) -> None:
        assert not future.cancelled()  # they are the writer's own
        error = future.exception()
        refused: Refused = {} if error is not None else future.result()
        for submission, (_, _, num_tokens) in zip(sent, drawn, strict=True):
            generation = submission.generation
            if submission.outstanding is future:
                submission.outstanding = None
            if not self._is_current(submission):
                continue  # removed, or begun again since
            problem = as_problem(error) or refused.get(generation.id)
            if problem is None:
                submission.num_journalled = num_tokens
                # What was shown meanwhile, without the store, was not sent.
                shown = min(generation.num_public, generation.num_tokens)
                submission.is_behind = submission.is_behind and shown > num_tokens
                generation.publish(num_tokens)
            elif self._may_continue and may_pass(problem):
                submission.is_behind = True
                generation.publish(generation.num_tokens)
            else:
                self._on_refused(submission, problem)

    def _is_current(self, submission: Submission) -> bool:
        return self._submissions.get(submission.generation.id) is submission


def may_pass(problem: ChatError) -> bool:
    """Whether a later step may bring what this one did not."""
    return isinstance(problem, StoreUnavailable) and not isinstance(problem, Fenced)


def as_problem(error: BaseException | None) -> ChatError | None:
    """What a failed transaction means to an answer: a bug of the store's may pass, too."""
    if error is None or isinstance(error, ChatError):
        return error
    return StoreUnavailable("The database failed.")
