"""What PostgreSQL needs and SQLite does not: limits on waiting for it.

Imported for such a database only: its driver is an extra.
"""

import time
from collections.abc import Generator
from typing import Any, TypeVar

import psycopg
from sqlalchemy import URL

T = TypeVar("T")

# In the server's words, where they are English: a refused login has no code in the driver's error.
LASTING = ("authentication failed", "no pg_hba.conf entry", "does not exist", "permission denied")

CONNECT_TIMEOUT_S = 3
ANSWER_TIMEOUT_S = 5.0  # many times what a busy server takes for a statement of ours
# A dead peer is noticed in 25 s and not in two hours, on both sides of the wire.
KEEPALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}


class ImpatientConnection(psycopg.Connection[Any]):
    """Closes itself when nothing is answered for `answer_timeout_s` within a statement.

    A server that hangs, or whose machine was paused, would hold its caller for ever: connections to
    it stay open. A statement that was given up may still be done when it wakes.
    """

    answer_timeout_s = ANSWER_TIMEOUT_S

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **options: Any) -> T:
        return super().wait(self._limited(gen), *args, **options)

    def _limited(self, gen: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
        """Passes on what the driver's loop says to `gen`: ready, or every 0.1 s (psycopg 3.3) 0."""
        last_s = time.monotonic()
        try:
            waits_for = next(gen)
            while True:
                ready = yield waits_for
                now_s = time.monotonic()
                if ready:
                    last_s = now_s
                elif now_s - last_s > self.answer_timeout_s:
                    self.close()
                    raise psycopg.OperationalError(
                        f"PostgreSQL gave no answer for {self.answer_timeout_s:g} s"
                    )
                waits_for = gen.send(ready)
        except StopIteration as end:
            result: T = end.value
            return result


def connect_arguments(url: URL) -> dict[str, Any]:
    """For the driver. What the URL says itself is left to it."""
    options = [f"-c tcp_{name}={value}" for name, value in KEEPALIVE.items()]
    given = url.query.get("options", ())
    options += [given] if isinstance(given, str) else given
    defaults = {"connect_timeout": CONNECT_TIMEOUT_S, **KEEPALIVE}
    return {"options": " ".join(options)} | {
        name: value for name, value in defaults.items() if name not in url.query
    }


def may_pass_later(error: object) -> bool:
    """Of an error of the driver: for a server that is not there yet, not for a refused login."""
    is_operational = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return is_operational and not any(words in str(error) for words in LASTING)
