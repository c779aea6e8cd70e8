"""Tokens on their way to the journal: one transaction per step, and shown once it is committed.

The store takes from an answer's log what it does not have yet, so the journal never has a hole.
Where a step failed and durability may lapse, the next one brings its tokens; otherwise the answer
is refused.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from llamastream.errors import ChatError, StoreUnavailable
from llamastream.generation.generation import Generation
from llamastream.generation.kept import Kept
from llamastream.records import Drawn

if TYPE_CHECKING:
    from llamastream.store.journal import Refused
    from llamastream.store.store import Store


class Journalling:
    def __init__(
        self,
        store: "Store",
        kept: Mapping[str, Kept],
        *,
        may_lapse: bool,
        on_refused: Callable[[Kept, ChatError], None],
    ) -> None:
        """`kept`: what is in progress. `on_refused` hears of what durability cannot do without."""
        self._store = store
        self._kept = kept
        self._may_lapse = may_lapse
        self._on_refused = on_refused

    def write(self, generations: Sequence[Generation]) -> None:
        """Journal what these have drawn since the last call, and then show it."""
        sent: list[Kept] = []
        drawn: list[Drawn] = []
        for generation in generations:
            kept, num_tokens = self._kept[generation.id], generation.num_tokens
            if kept.is_lapsed and kept.is_pending:
                generation.publish(num_tokens)
            else:
                sent.append(kept)
                drawn.append(Drawn(generation.id, generation.log, num_tokens))
        if drawn:
            future = self._store.append(drawn)
            for kept in sent:
                kept.outstanding = future
            future.add_done_callback(partial(self._on_committed, sent, drawn))

    async def settle(self, kept: Kept) -> None:
        """Return when nothing is outstanding: all is journalled, or it was refused or lapsed."""
        await kept.answered()
        if kept.is_lapsed and self._is_current(kept):
            self.write((kept.generation,))
            await kept.answered()

    def _on_committed(
        self, sent: list[Kept], drawn: list[Drawn], future: "asyncio.Future[Refused]"
    ) -> None:
        assert not future.cancelled()  # they are the writer's own
        error = future.exception()
        refused: Refused = {} if error is not None else future.result()
        for kept, (_, _, num_tokens) in zip(sent, drawn, strict=True):
            generation = kept.generation
            if kept.outstanding is future:
                kept.outstanding = None
            if not self._is_current(kept):
                continue  # removed, or begun again since
            problem = as_problem(error) or refused.get(generation.id)
            if problem is None:
                kept.num_journalled = num_tokens
                # What was shown meanwhile, in a lapse, was not sent.
                shown = min(generation.num_public, generation.num_tokens)
                kept.is_lapsed = kept.is_lapsed and shown > num_tokens
                generation.publish(num_tokens)
            elif self._may_lapse and isinstance(problem, StoreUnavailable):
                kept.is_lapsed = True
                generation.publish(generation.num_tokens)
            else:
                self._on_refused(kept, problem)

    def _is_current(self, kept: Kept) -> bool:
        return self._kept.get(kept.generation.id) is kept


def as_problem(error: BaseException | None) -> ChatError | None:
    """What a failed transaction means to an answer: a bug of the store's may pass, too."""
    if error is None or isinstance(error, ChatError):
        return error
    return StoreUnavailable("The database failed.")
