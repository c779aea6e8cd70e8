"""What a transaction changes beside the database: valid once it is committed, dropped if it fails.

A transaction works on copies. Nothing that others see is changed before COMMIT, so nothing has to
be taken back.
"""

from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import Connection

from llamastream.records import AllowStore, DrawnLog, ScopeUsage
from llamastream.store.usage import Charges, read_usage


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

    def allow(self, allow: AllowStore | None, scope: str, *, is_response: bool) -> None:
        """Ask whether `scope` may store more. None: whatever it likes."""
        if allow is not None:
            stored = read_usage(self.conn, scope)
            own = [charge for charge in self.charges if charge.scope == scope]
            num_responses = stored.num_responses + sum(charge.num_responses for charge in own)
            num_bytes = stored.num_bytes + sum(charge.num_bytes for charge in own)
            allow(ScopeUsage(num_responses, num_bytes), is_response=is_response)

    def branch(self) -> "Transaction":
        """For a part of it that may fail alone."""
        return Transaction(self.conn, self.in_progress, self.charges)

    def join(self, branch: "Transaction") -> None:
        """Take over what a part has changed."""
        self.in_progress, self.charges = branch.in_progress, branch.charges
