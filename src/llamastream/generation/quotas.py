"""What each key has in progress and has used, and the limits that it must keep to.

It stands before the engine, so that every transport and every kind of answer is counted alike. The
invariant: what was let in is counted until its Finished or Failed has come by.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from llamastream.errors import RateLimited
from llamastream.generation.engine import Engine
from llamastream.keys import NO_LIMITS, Keys, Limits
from llamastream.records import AllowStore, ScopeUsage
from llamastream.types import (
    EngineStatus,
    Event,
    Finished,
    GenerationRequest,
    PromptTokens,
    Token,
)

MINUTE_S = 60.0
SOON_S = 1  # when to come back for what may end at any time
LATER_S = 60  # and for what may not


class Usage:
    """What one scope has in progress, and has used of this minute's tokens.

    Those come back evenly. A request is let in while there are any, and goes on to its end; so they
    may be overdrawn, and then the key waits the longer.
    """

    def __init__(self, now_s: float) -> None:
        self.num_requests = 0
        self.num_waiting = 0  # of these, for their first token
        self.num_prompt_tokens = 0  # since the start
        self.num_output_tokens = 0
        self.num_cached_tokens = 0  # of the prompts'
        self._num_counted = 0
        self._used = 0.0
        self._used_at_s = now_s

    def tokens_used(self, limit: int, now_s: float) -> float:
        """Of this minute's tokens, `limit` being all."""
        total = self.num_prompt_tokens + self.num_output_tokens - self.num_cached_tokens
        back = (now_s - self._used_at_s) * limit / MINUTE_S
        self._used = max(self._used + total - self._num_counted - back, 0.0)
        self._num_counted, self._used_at_s = total, now_s
        return self._used


class Room(NamedTuple):
    """What a key may still have of one kind, and when it may have all again."""

    limit: int
    remaining: int
    reset_s: float


@dataclass(slots=True)
class _Request:
    usage: Usage
    is_new: bool  # and not one that a failure interrupted, whose prompt was counted before
    is_waiting: bool = True


class Quotas:
    """Counts by scope. Belongs to one event loop."""

    def __init__(self, keys: Keys, clock: Callable[[], float] = time.monotonic) -> None:
        self.keys = keys
        self._clock = clock
        self._usages: dict[str, Usage] = {}

    def over(self, engine: Engine) -> Engine:
        """`engine`, for requests within limits only."""
        if not self.keys.are_required:
            return engine
        return _LimitedEngine(engine, self)

    def usage(self, scope: str) -> Usage:
        if scope not in self._usages:
            self._usages[scope] = Usage(self._clock())
        return self._usages[scope]

    def limits(self, scope: str) -> Limits:
        key = self.keys.of_scope(scope)
        return NO_LIMITS if key is None else key.limits

    def name_of(self, scope: str) -> str:
        """The name of the key that opens a scope, empty when there is none."""
        key = self.keys.of_scope(scope)
        return "" if key is None else key.name

    def by_name(self) -> Iterator[tuple[str, Usage]]:
        """The scopes that have been used, by the names of their keys; one is gone with its key."""
        for scope, usage in self._usages.items():
            if (key := self.keys.of_scope(scope)) is not None:
                yield key.name, usage

    def rooms(self, scope: str) -> dict[str, Room]:
        """Requests and tokens that a key may still have, where it has limits."""
        limits, usage, rooms = self.limits(scope), self.usage(scope), {}
        if (most := limits.max_requests) is not None:
            left = max(most - usage.num_requests, 0)
            rooms["requests"] = Room(most, left, SOON_S if usage.num_requests else 0)
        if (most := limits.max_tokens_per_minute) is not None:
            used = usage.tokens_used(most, self._clock())
            left = max(math.floor(most - used), 0)
            rooms["tokens"] = Room(most, left, used * MINUTE_S / most if most else LATER_S)
        return rooms

    def check(self, scope: str) -> None:
        """Raises RateLimited unless one request more may begin."""
        limits, usage = self.limits(scope), self.usage(scope)
        most = limits.max_requests
        if most is not None and usage.num_requests >= most:
            raise _over("max_requests", most, f"{usage.num_requests} in progress", SOON_S)
        most = limits.max_waiting
        if most is not None and usage.num_waiting >= most:
            raise _over("max_waiting", most, f"{usage.num_waiting} waiting", SOON_S)
        most = limits.max_tokens_per_minute
        if most is not None and (used := usage.tokens_used(most, self._clock())) >= most:
            wait_s = math.ceil((used - most + 1) * MINUTE_S / most) if most else LATER_S
            raise _over("max_tokens_per_minute", most, f"{used:.0f} used", wait_s)

    def allow_store(self, scope: str) -> AllowStore:
        """What lets a key of this scope store more, by what it has stored. Raises RateLimited."""
        limits = self.limits(scope)

        def allow(usage: ScopeUsage, *, is_response: bool) -> None:
            most = limits.max_stored_responses
            if is_response and most is not None and usage.num_responses >= most:
                raise _over("max_stored_responses", most, f"{usage.num_responses} stored", LATER_S)
            most = limits.max_stored_bytes
            if most is not None and usage.num_bytes >= most:
                raise _over("max_stored_bytes", most, f"{usage.num_bytes} stored", LATER_S)

        return allow


class _LimitedEngine(Engine):
    def __init__(self, engine: Engine, quotas: Quotas) -> None:
        self._engine = engine
        self._quotas = quotas
        self._requests: dict[str, _Request] = {}

    def start(self, on_events: Callable[[list[Event]], None], on_end: Callable[[], None]) -> None:
        def counted(events: list[Event]) -> None:
            self._count(events)
            on_events(events)

        self._engine.start(counted, on_end)

    async def stop(self) -> None:
        await self._engine.stop()

    async def ready(self) -> None:
        await self._engine.ready()

    def check_room(self, scope: str, count: int) -> None:
        """Raises RateLimited, or what the engine raises."""
        self._quotas.check(scope)
        self._engine.check_room(scope, count)

    def submit(self, request: GenerationRequest) -> None:
        """Raises RateLimited, or what the engine raises."""
        is_new = not request.output_ids
        if is_new:
            self._quotas.check(request.scope)
        self._engine.submit(request)
        usage = self._quotas.usage(request.scope)
        self._requests[request.request_id] = _Request(usage, is_new)
        usage.num_requests += 1
        usage.num_waiting += 1
        usage.num_prompt_tokens += len(request.prompt_ids) if is_new else 0

    def cancel(self, request_id: str) -> None:
        self._engine.cancel(request_id)

    def status(self) -> EngineStatus:
        return self._engine.status()

    def _count(self, events: list[Event]) -> None:
        for event in events:
            request = self._requests.get(event.request_id)
            if request is None:
                continue
            usage = request.usage
            if request.is_waiting:
                request.is_waiting = False
                usage.num_waiting -= 1
            usage.num_output_tokens += isinstance(event, Token)
            if isinstance(event, Token | PromptTokens):
                continue
            del self._requests[event.request_id]
            usage.num_requests -= 1
            if isinstance(event, Finished) and request.is_new:
                usage.num_cached_tokens += event.num_cached_tokens


def _over(limit: str, most: int, given: str, retry_after_s: int) -> RateLimited:
    return RateLimited(
        f"{limit} of this API key is {most}. Given: {given}. Try again in {retry_after_s} s.",
        retry_after_s=retry_after_s,
    )
