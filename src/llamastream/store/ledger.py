"""What the journal holds of every response in progress, in memory: the writer's own view.

Changes belong to the transaction under way: `commit` shows them, `rollback` takes them back.
Only the writer's thread changes it; others may call `get` and `OpenResponse.tokens`.
"""

from array import array
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self

from sqlalchemy import Row

from llamastream.errors import ChatError, InternalError, NotFound, StoreUnavailable
from llamastream.store.packing import (
    NO_LOGPROBS,
    make_token,
    pack_entry,
    pack_ids,
    pack_step_entry,
    split_entries,
    unpack_ids,
)
from llamastream.types import Token


class OpenResponse:
    """A response in progress: the tokens journalled so far.

    `start` is the first journal row that may hold a token not yet in the response's own row.
    """

    def __init__(self, id: str, scope: str, num: int, start: int) -> None:
        self.id = id
        self.scope = scope
        self.num = num
        self.start = start
        self.ids = array("I")
        self.entries: list[bytes] = []  # of log-probabilities, as many as ids once any has one
        self.num_committed = 0

    @classmethod
    def of_row(cls, row: Row[Any]) -> Self:
        """With the tokens that are in the response's own row."""
        entry = cls(row.id, row.scope, row.num, row.journal_start)
        entry.ids.extend(unpack_ids(row.token_ids))
        entry.entries = split_entries(row.logprobs or b"")
        entry.num_committed = len(entry.ids)
        return entry

    def add(self, token_id: int, entry: bytes) -> None:
        if entry != NO_LOGPROBS and not self.entries:
            self.entries = [NO_LOGPROBS] * len(self.ids)
        if self.entries or entry != NO_LOGPROBS:
            self.entries.append(entry)
        self.ids.append(token_id)

    def truncate(self, length: int) -> None:
        del self.ids[length:]
        del self.entries[length:]

    def tokens(self, after: int = -1) -> list[Token]:
        """Those committed with a position > `after`."""
        end = self.num_committed
        ids, entries = self.ids[after + 1 : end], self.entries[after + 1 : end]
        return [
            make_token(self.id, position, token_id, entries[k] if entries else NO_LOGPROBS)
            for k, (position, token_id) in enumerate(enumerate(ids, after + 1))
        ]

    def packed(self) -> tuple[bytes, bytes | None]:
        """Ids and log-probabilities as the response's own row keeps them."""
        return pack_ids(self.ids), b"".join(self.entries) or None


class Ledger:
    def __init__(self) -> None:
        self._open: dict[str, OpenResponse] = {}
        self._undo: list[Callable[[], object]] = []
        self._touched: dict[str, OpenResponse] = {}
        self._step: list[int] = []  # (num, position, token id), flat
        self._step_entries: list[bytes] = []

    def __len__(self) -> int:
        return len(self._open)

    def get(self, response_id: str) -> OpenResponse | None:
        return self._open.get(response_id)

    def all(self) -> Sequence[OpenResponse]:
        return tuple(self._open.values())

    def oldest_start(self, default: int) -> int:
        """The first journal row that is still needed."""
        return min((entry.start for entry in self._open.values()), default=default)

    def add(self, entry: OpenResponse) -> None:
        self._open[entry.id] = entry
        self._undo.append(partial(self._open.pop, entry.id, None))

    def remove(self, response_id: str) -> None:
        entry = self._open.pop(response_id, None)
        if entry is not None:
            self._undo.append(partial(self._open.__setitem__, response_id, entry))

    def move_start(self, entry: OpenResponse, start: int) -> None:
        self._undo.append(partial(setattr, entry, "start", entry.start))
        entry.start = start

    def stage(self, tokens: Sequence[Token]) -> dict[str, ChatError]:
        """Take the tokens of a step, and name the responses whose tokens were refused, and why."""
        refused: dict[str, ChatError] = {}
        for token in tokens:
            response_id = token.request_id
            entry = self._open.get(response_id)
            if response_id in refused:
                continue
            if entry is None:
                refused[response_id] = NotFound(f"Response '{response_id}' is not in progress.")
            elif token.position != len(entry.ids):
                refused[response_id] = _misplaced(token, len(entry.ids))
            else:
                self._stage(entry, token)
        return refused

    def take_step(self) -> tuple[bytes, bytes | None] | None:
        """What was staged since the last call, packed; None if nothing."""
        if not self._step:
            return None
        packed = pack_ids(self._step), b"".join(self._step_entries) or None
        self._step.clear()
        self._step_entries.clear()
        return packed

    def mark(self) -> int:
        """A place to `undo` to."""
        return len(self._undo)

    def undo(self, mark: int) -> None:
        """Take back what was opened, closed or moved since `mark`."""
        while len(self._undo) > mark:
            self._undo.pop()()

    def rollback(self) -> None:
        """Take back everything since the last commit, tokens too."""
        self.undo(0)
        for entry in self._touched.values():
            entry.truncate(entry.num_committed)
        self._touched.clear()
        self._step.clear()
        self._step_entries.clear()

    def commit(self) -> None:
        for entry in self._touched.values():
            entry.num_committed = len(entry.ids)
        self._touched.clear()
        self._undo.clear()

    def _stage(self, entry: OpenResponse, token: Token) -> None:
        packed = NO_LOGPROBS if token.logprob is None else pack_entry(token)
        entry.add(token.token_id, packed)
        self._touched[entry.id] = entry
        self._step += (entry.num, token.position, token.token_id)
        if packed is not NO_LOGPROBS:
            self._step_entries.append(pack_step_entry(entry.num, token.position, packed))


def _misplaced(token: Token, expected: int) -> ChatError:
    where = f"Token {token.position} of response '{token.request_id}'"
    if token.position > expected:
        return StoreUnavailable(f"{where} follows one that could not be written ({expected}).")
    return InternalError(f"{where} was journalled before.")
