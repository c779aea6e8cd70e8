"""What a transaction changes beside the database: valid once it is committed, dropped if it fails.

A transaction works on copies. Nothing that others see is changed before COMMIT, so nothing has to
be taken back.
"""

from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import Connection

from llamastream.records import DrawnLog
from llamastream.store.usage import Charges


class InProgress(NamedTuple):
    """A response that this server generates, and how far the database is with it."""

    num: int
    scope: str
    start: int  # the first journal row that may hold a token not yet in the response's own row
    num_tokens: int = 0  # that the database has
    log: DrawnLog | None = None  # of these; None while the response's own row has them all


class Transaction:
    """One that is under way. The writer's thread alone uses it."""

    def __init__(
        self,
        conn: Connection,
        in_progress: Mapping[str, InProgress],
        charges: Charges | None = None,
    ) -> None:
        self.conn = conn
        self.in_progress = dict(in_progress)  # by id
        self.charges = Charges(charges or ())

    def branch(self) -> "Transaction":
        """For a part of it that may fail alone."""
        return Transaction(self.conn, self.in_progress, self.charges)

    def join(self, branch: "Transaction") -> None:
        """Take over what a part has changed."""
        self.in_progress, self.charges = branch.in_progress, branch.charges
