"""What the service needs of an engine: four members to talk to it, three for its life.

The in-process AsyncEngine is one; an engine on another machine or a scripted double is another.
"""

from collections.abc import AsyncIterator
from typing import Protocol

from llamastream.messages import EngineStatus, Event, GenerationRequest


class Engine(Protocol):
    """Token ids in, token events out. Every submitted request ends in one Finished or Failed."""

    def start(self) -> None:
        """Begin to load, from within the running event loop, without waiting for the end of it."""
        ...

    async def stop(self) -> None:
        """Fail what is unfinished and free everything. `steps` ends."""
        ...

    async def ready(self) -> None:
        """Return once requests are accepted. Raises what went wrong with loading."""
        ...

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request. Raises Overloaded, ContextLengthExceeded, InvalidRequest or EngineDead
        at once, with nothing queued."""
        ...

    def cancel(self, request_id: str) -> None:
        """Ask for the end of a request: its last event comes, its blocks are free, within one
        step. Unknown and finished ids are ignored."""
        ...

    def status(self) -> EngineStatus: ...

    def steps(self) -> AsyncIterator[list[Event]]:
        """All events in order, one or more steps at a time. One consumer. Ends or raises when the
        engine stops for good."""
        ...
