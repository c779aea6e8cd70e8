"""Tokens on their way to the journal: one transaction per step, and shown once it is committed.

A token the store could not take is given again with the next step when durability may lapse;
otherwise its response is parked. Either way the journal never has a hole.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from llamastream.errors import ChatError, StoreUnavailable
from llamastream.generation.live_response import LiveResponse
from llamastream.types import Token

if TYPE_CHECKING:
    from llamastream.store.store import Store
    from llamastream.store.writer import Refused

Sent = list[tuple[LiveResponse, int]]  # with the number of its tokens that are then journalled


class Journalling:
    def __init__(
        self,
        store: "Store",
        *,
        may_lapse: bool,
        on_refused: Callable[[LiveResponse, ChatError], None],
    ) -> None:
        """`on_refused` hears of what durability cannot do without."""
        self._store = store
        self._may_lapse = may_lapse
        self._on_refused = on_refused

    def write(self, lives: Sequence[LiveResponse]) -> None:
        """Journal what these have drawn since the last call, and then show it."""
        tokens: list[Token] = []
        sent: Sent = []
        for live in lives:
            if live.is_lapsed and live.num_outstanding:
                live.log.publish(len(live.log.tokens))
                continue
            if live.is_lapsed:
                live.num_sent = live.num_journalled
            tokens += live.log.tokens[live.num_sent :]
            live.num_sent = len(live.log.tokens)
            live.num_outstanding += 1
            sent.append((live, live.num_sent))
        if tokens:
            self._store.append(tokens).add_done_callback(partial(self._on_committed, sent))

    async def settle(self, live: LiveResponse) -> None:
        """Return when nothing is outstanding. Then all is journalled, or it is parked or lapsed."""
        while live.num_outstanding:
            await live.log.wait()
        if live.is_lapsed and not (live.is_parked or live.is_dropped):
            self.write([live])
            while live.num_outstanding:
                await live.log.wait()

    def _on_committed(self, sent: Sent, future: "asyncio.Future[Refused]") -> None:
        if future.cancelled():
            return
        error = future.exception()
        refused: Refused = {} if error is not None else future.result()
        for live, num_tokens in sent:
            live.num_outstanding -= 1
            problem = error or refused.get(live.id)
            if live.is_parked or live.is_dropped:
                live.log.publish(0)
            elif problem is None:
                live.num_journalled, live.is_lapsed = num_tokens, False
                live.log.publish(num_tokens)
            elif self._may_lapse and isinstance(problem, StoreUnavailable):
                live.is_lapsed = True
                live.log.publish(len(live.log.tokens))
            else:
                assert isinstance(problem, ChatError), problem
                self._on_refused(live, problem)
                live.log.publish(0)
