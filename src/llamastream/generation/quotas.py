"""What each key has in progress and has used, and the limits that it must keep to.

It stands before the engine, so that every transport and every kind of answer is counted alike. The
invariant: what was let in is counted until its Finished or Failed has come by.
"""

import math
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from llamastream.errors import RateLimited
from llamastream.generation.protocol import Engine
from llamastream.keys import NO_LIMITS, Keys, Limits
from llamastream.types import EngineStatus, Event, Finished, GenerationRequest, Token

MINUTE_S = 60.0


class TokenBucket:
    """Tokens that a key may still use. It fills evenly, up to what a minute allows.

    A request is let in while there are any, and goes on to its end; so it may be overdrawn, and
    then the key waits the longer.
    """

    def __init__(self, now_s: float) -> None:
        self._used = 0.0  # below 0 never
        self._at_s = now_s

    def used(self, limit: int, now_s: float) -> float:
        self._used = max(self._used - (now_s - self._at_s) * limit / MINUTE_S, 0.0)
        self._at_s = now_s
        return self._used

    def spend(self, num_tokens: int) -> None:
        self._used = max(self._used + num_tokens, 0.0)

    def seconds_until(self, used: float, limit: int) -> float:
        """How long it takes from now until no more than `used` are used."""
        return max(self._used - used, 0.0) * MINUTE_S / max(limit, 1)
