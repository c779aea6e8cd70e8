"""What the service needs of an engine: four members to talk to it, three for its life.

The in-process AsyncEngine is one; an engine on another machine or a scripted double is another.
"""

from collections.abc import Callable
from typing import Protocol

from llamastream.types import EngineStatus, Event, GenerationRequest


class Engine(Protocol):
    """Token ids in, token events out. Every submitted request ends in one Finished or Failed."""

    def start(self, on_events: Callable[[list[Event]], None], on_end: Callable[[], None]) -> None:
        """Begin to load, from within the running event loop, without waiting for the end of it.

        From then on the loop calls `on_events` with all events in order, one or more steps at a
        time, and `on_end` once, when the engine has stopped for good.
        """
        ...

    async def stop(self) -> None:
        """Fail what is unfinished and free everything; `on_end` was called when this returns."""
        ...

    async def ready(self) -> None:
        """Return once requests are accepted. Raises what went wrong with loading."""
        ...

    def check_room(self, scope: str, count: int) -> None:
        """Raises Overloaded where it knows that so many more requests of a key would be refused:
        asked before anything is done for them."""
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
