"""The keeper of stored answers: in the journal before they are shown, and never lost.

Between engine, journal and readers. One step of the engine is one transaction for all of them. The
invariant: what a reader saw is in the journal, so it is drawn by nobody again; and what was removed
stays removed, whatever of it was under way.
"""

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from llamastream.errors import (
    ChatError,
    EngineDead,
    Fenced,
    InternalError,
    NotFound,
    ResponseInterrupted,
    StoreUnavailable,
)
from llamastream.generation.dispatch import Dispatcher
from llamastream.generation.generation import STATUSES, End, Generation, State
from llamastream.generation.items import output_items, part_to_json
from llamastream.generation.journalling import Journalling, as_problem
from llamastream.generation.resuming import STORE_RETRY_S, WAITING, Resuming, end_waiting
from llamastream.generation.submission import Submission, Tasks
from llamastream.records import Drawn, Outcome, Response, Status
from llamastream.types import Usage

if TYPE_CHECKING:
    from llamastream.store.store import Store

logger = logging.getLogger(__name__)

MAX_SUBMISSIONS = 1_000_000  # of one answer, while this server has it
OTHER_MODEL = "The server was started again with another model, which cannot go on with this."


class Durability:
    """Every stored answer in progress is in here exactly once, from its submission to its end."""

    def __init__(
        self, dispatcher: Dispatcher, store: "Store", *, grace_s: float, may_continue: bool
    ) -> None:
        """`grace_s`: how long one goes on that nobody follows."""
        self._dispatcher = dispatcher
        self._store = store
        self._grace_s = grace_s
        self._may_continue = may_continue
        self._submissions: dict[str, Submission] = {}
        self._tasks = Tasks()
        self._first_number = 0
        self._journal = Journalling(
            store, self._submissions, may_continue=may_continue, on_refused=self._on_refused
        )
        self._resuming = Resuming(dispatcher, self._submissions, on_submitted=self._watch)
        dispatcher.when_over(partial(_fail_waiting, self._submissions))

    def __len__(self) -> int:
        return len(self._submissions)

    def get(self, id: str) -> Generation | None:
        submission = self._submissions.get(id)
        return None if submission is None else submission.generation

    def begin(self, generation: Generation) -> None:
        """Hand a new one to the engine. Raises what that refuses it with, and then it is not in."""
        generation.keeper = self
        self._dispatcher.submit(generation)
        self._submissions[generation.id] = submission = Submission(generation)
        self._watch(submission)

    def go_on(self, interrupted: Sequence[Generation], others: Sequence[Generation] = ()) -> None:
        """Resume what another server left, once the engine is ready. `others` are another model's,
        and fail."""
        for generation in (*interrupted, *others):
            generation.keeper = self
            self._submissions[generation.id] = Submission(generation, self._first_number)
        waiting = [self._submissions[generation.id] for generation in interrupted]
        self._tasks.spawn(self._resuming.run(waiting))
        for generation in others:
            self.failed(generation, InternalError(OTHER_MODEL))

    def let_go(self) -> list[Generation]:
        """All that is in progress, as far as it is journalled: another server goes on with it."""
        self._first_number += MAX_SUBMISSIONS  # the engine may not have ended those of before yet
        submissions = list(self._submissions.values())
        self._submissions.clear()
        for submission in submissions:
            submission.stop_watching()
            self._dispatcher.forget(submission.generation)
            submission.generation.rewind(submission.num_journalled)
            submission.generation.state, submission.generation.error = State.QUEUED, None
        return [one.generation for one in submissions if one.generation.end is None]

    def cancel(self, generation: Generation) -> None:
        """Ask for its end, which its readers will hear of."""
        generation.is_cancelled = True
        if generation.state is State.RUNNING:
            self._dispatcher.cancel(generation)
        elif generation.state in WAITING:  # for the model, for its turn, for the store
            end_waiting(generation)

    def remove(self, generation: Generation) -> None:
        """Forget one that is not, or no longer, in the store, with all of it that is under way.
        Idempotent."""
        submission = self._submissions.get(generation.id)
        if submission is not None and submission.generation is generation:
            submission.stop_watching()
            del self._submissions[generation.id]
        self._dispatcher.forget(generation)
        generation.state = State.ENDED
        generation.fail(NotFound(f"Response {generation.id!r} was deleted.", param="response_id"))

    async def close(self) -> None:
        """Leave what is unfinished to the next start. The engine has ended before."""
        await self._tasks.close()
        for submission in self._submissions.values():
            submission.stop_watching()

    # What the dispatcher and the readers say: see `Keeper`.

    def drawn(self, generations: Iterable[Generation]) -> None:
        self._journal.write(generations)

    def ended(self, generation: Generation) -> None:
        self._tasks.spawn(self._record(self._submissions[generation.id], _outcome(generation)))

    def failed(self, generation: Generation, error: ChatError) -> None:
        if isinstance(error, EngineDead):  # it stays in progress, for the next start
            generation.state = State.PARKED
            generation.fail(ResponseInterrupted(generation.id))
        elif generation.state not in (State.ENDING, State.ENDED):
            generation.state = State.ENDING
            usage = list(generation.usage())
            outcome = Outcome(Status.FAILED, {"usage": usage, "text": ""}, (), error.message)
            self._tasks.spawn(self._record(self._submissions[generation.id], outcome))

    def readers_changed(self, generation: Generation, change: int) -> None:
        self._dispatcher.metrics.readers.inc(change)
        submission = self._submissions.get(generation.id)
        if submission is not None and submission.generation is generation:
            self._watch(submission)

    # The life of one answer.

    def _watch(self, submission: Submission) -> None:
        """End it when nobody follows for long."""
        submission.watch(self._grace_s, self.cancel)

    async def _record(self, submission: Submission, outcome: Outcome) -> None:
        """Store how an answer ended, and then tell its readers.

        Where it may continue without the store they are told before, and it stays here until then.
        """
        generation, record = submission.generation, None
        while record is None:
            await self._journal.settle(submission)
            if self._submissions.get(generation.id) is not submission:
                return  # refused, or removed
            try:
                if not submission.is_behind:
                    drawn = Drawn(generation.id, generation.log, generation.num_tokens)
                    record = await self._store.responses.finish(generation.id, outcome, drawn)
            except Exception as error:
                problem = as_problem(error)
                assert problem is not None
                if isinstance(problem, Fenced):
                    return
                if not self._may_continue or not isinstance(problem, StoreUnavailable):
                    self._on_refused(submission, problem)
                    return
            if record is None:
                if generation.end is None:
                    generation.finish(end_of(outcome, time.time()))
                await asyncio.sleep(STORE_RETRY_S)
        if self._submissions.get(generation.id) is submission:
            submission.stop_watching()
            del self._submissions[generation.id]
            generation.finish(end_of(record, record.finished_at))
            self._dispatcher.report(generation)

    def _on_refused(self, submission: Submission, error: ChatError) -> None:
        """The store did not take a step or the end of it. Only what may pass is tried again."""
        generation = submission.generation
        if self._submissions.get(generation.id) is not submission:
            return
        if isinstance(error, Fenced):
            return  # it will be let go
        if isinstance(error, StoreUnavailable):
            self._park(submission, error)
            return
        if isinstance(error, NotFound) or generation.state in (State.ENDING, State.ENDED):
            self.remove(generation)
            return
        logger.error("refused request_id=%s: %s", generation.id, error.message)
        self._dispatcher.forget(generation)
        self.failed(generation, error)

    def _park(self, submission: Submission, error: ChatError) -> None:
        """The store failed: readers are told, and it goes on when the store is back."""
        generation = submission.generation
        logger.warning("parked request_id=%s: %s", generation.id, error.message)
        self._dispatcher.forget(generation)
        submission.stop_watching()
        generation.rewind(submission.num_journalled)
        generation.state = State.PARKED
        self._submissions[generation.id] = again = Submission(generation, submission.number + 1)
        generation.fail(error)
        self._tasks.spawn(self._resuming.resume_parked(again))


def _fail_waiting(submissions: Mapping[str, Submission], _: ChatError) -> None:
    """The engine is over: what is in progress stays so, for the next start."""
    for one in submissions.values():
        if one.generation.state in WAITING:
            one.generation.fail(ResponseInterrupted(one.generation.id))


def end_of(outcome: Outcome | Response, finished_at: float | None) -> End:
    """How an answer ended, as it is or will be stored."""
    usage = None if outcome.result is None else Usage(*outcome.result["usage"])
    warnings = () if outcome.result is None else tuple(outcome.result.get("warnings", ()))
    return End(outcome.status, usage, finished_at, outcome.error, warnings)


def _outcome(generation: Generation) -> Outcome:
    reason = generation.choices[0].finish_reason
    assert reason is not None
    text, parts = generation.log.text(), generation.log.parts()
    status = STATUSES[reason]
    items = output_items(
        generation.id, parts, "completed" if status is Status.COMPLETED else "incomplete"
    )
    if not generation.details.has_input:
        items[0] = items[0]._replace(follows=generation.details.after)
    result: dict[str, Any] = {"usage": list(generation.usage()), "text": text}
    if parts != (text,):
        result["parts"] = [part_to_json(part) for part in parts]
    if warnings := generation.warnings():
        result["warnings"] = list(warnings)
    return Outcome(status, result, items)
