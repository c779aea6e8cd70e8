"""What each scope keeps, counted in the transaction that changes it: to ask costs one row.

Jobs say what they add and take away; the writer puts it into the database right before it commits,
in the order of scopes, so that servers on one database cannot wait for each other in a ring.
"""

from collections import Counter
from typing import NamedTuple

from sqlalchemy import Connection, select, text

from llamastream.records import ScopeUsage
from llamastream.store.tables import scope_usage

_ADD = text(
    "INSERT INTO scope_usage (scope, num_responses, num_bytes) "
    "VALUES (:scope, :num_responses, :num_bytes) ON CONFLICT (scope) DO UPDATE SET "
    "num_responses = scope_usage.num_responses + excluded.num_responses, "
    "num_bytes = scope_usage.num_bytes + excluded.num_bytes"
)


class Charge(NamedTuple):
    scope: str
    num_responses: int
    num_bytes: int


class Charges(list[Charge]):
    """Those of the transaction under way."""

    def add(self, scope: str, *, num_responses: int = 0, num_bytes: int = 0) -> None:
        """Negative for what is deleted."""
        self.append(Charge(scope, num_responses, num_bytes))

    def write(self, conn: Connection) -> None:
        """Put them into the database, within the caller's transaction."""
        num_responses: Counter[str] = Counter()
        num_bytes: Counter[str] = Counter()
        for charge in self:
            num_responses[charge.scope] += charge.num_responses
            num_bytes[charge.scope] += charge.num_bytes
        for scope in sorted(num_bytes):
            values = {"num_responses": num_responses[scope], "num_bytes": num_bytes[scope]}
            if any(values.values()):
                conn.execute(_ADD, values | {"scope": scope})


def read_usage(conn: Connection, scope: str) -> ScopeUsage:
    columns = (scope_usage.c.num_responses, scope_usage.c.num_bytes)
    row = conn.execute(select(*columns).where(scope_usage.c.scope == scope)).one_or_none()
    return ScopeUsage(0, 0) if row is None else ScopeUsage(*row)
