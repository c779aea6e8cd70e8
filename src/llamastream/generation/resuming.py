"""Answers that wait to go on: left by another server, or parked when the store failed.

They are given to the engine behind what is journalled of them.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from llamastream.errors import ChatError, EngineDead, Overloaded
from llamastream.generation.dispatch import Dispatcher
from llamastream.generation.generation import Generation, State
from llamastream.generation.submission import Submission
from llamastream.types import FinishReason

STORE_RETRY_S = 2.0  # how long a parked answer waits for the store to come back
WAITING = (State.QUEUED, State.PARKED)


class Resuming:
    def __init__(
        self,
        dispatcher: Dispatcher,
        submissions: Mapping[str, Submission],
        *,
        on_submitted: Callable[[Submission], None],
    ) -> None:
        """`submissions`: what is in progress."""
        self._dispatcher = dispatcher
        self._submissions = submissions
        self._on_submitted = on_submitted

    async def run(self, waiting: Sequence[Submission]) -> None:
        """Resume all of these, once the engine takes requests."""
        try:
            await self._dispatcher.engine.ready()
        except Exception:
            return  # who started the engine hears of it, and nothing can be resumed
        for submission in waiting:
            await self._resume(submission)

    async def resume_parked(self, submission: Submission) -> None:
        """Try again when the store may be back."""
        await asyncio.sleep(STORE_RETRY_S)
        await self._resume(submission)

    async def _resume(self, submission: Submission) -> None:
        generation = submission.generation
        while self._submissions.get(generation.id) is submission and generation.state in WAITING:
            generation.state, generation.error = State.QUEUED, None
            try:
                self._submit(submission)
            except Overloaded as error:
                await asyncio.sleep(error.retry_after_s)
            except EngineDead as error:
                generation.fail(error)
                return
            except ChatError as error:
                generation.keeper.failed(generation, error)

    def _submit(self, submission: Submission) -> None:
        """Raises what the engine refuses it with."""
        generation = submission.generation
        (choice,) = generation.choices
        if generation.is_cancelled or choice.finish_reason is not None:
            end_waiting(generation)
            return
        choice.request = replace(
            choice.request,
            # The engine may not have heard yet that the submission before was given up.
            request_id=submission.request_id,
            output_ids=generation.log.token_ids(),
        )
        self._dispatcher.submit(generation)
        self._on_submitted(submission)


def end_waiting(generation: Generation) -> None:
    """The end of an answer that the engine does not have: nothing more of it is to be drawn."""
    (choice,) = generation.choices
    generation.end_text(choice, FinishReason.CANCELLED)
    generation.state = State.ENDING
    generation.keeper.ended(generation)
