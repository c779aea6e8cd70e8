"""The engine behind one thread, for an event loop. Knows no text and no HTTP.

    event loop                                           engine thread
    submit, cancel ────────── inbox ───────────────────▶ LLMEngine: enqueue, cancel, step
    on_events ◀── one call_soon_threadsafe per step ──── events

The invariant: every request that `submit` accepted ends in exactly one Finished or Failed, and
delivery never makes the engine wait.
"""

import asyncio
import logging
import queue
import sys
import threading
from collections.abc import Callable

from llamastream.engine.llm_engine import LLMEngine
from llamastream.engine.sequence import Sequence
from llamastream.errors import EngineDead
from llamastream.types import EngineState, EngineStatus, Event, Failed, GenerationRequest

logger = logging.getLogger(__name__)

# How long the engine thread waits for the GIL when a step ends while the event loop is busy. With
# Python's default of 5 ms a burst of the loop's work is added to the step. Below 0.5 ms the two
# threads spend more on switching than they gain (measured: 3 ms steps of 32 sequences).
GIL_SWITCH_INTERVAL_S = 0.0005

LOADING_STATUS = EngineStatus(EngineState.LOADING, 0, 0, 0, 0, 0, 0)


class AsyncEngine:
    """Loads an engine on its own thread and runs it there.

    All methods belong to the event loop that called `start`. `load` is called once, on the engine
    thread.
    """

    def __init__(self, load: Callable[[], LLMEngine]) -> None:
        self._load = load
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._inbox: queue.SimpleQueue[Sequence | str | None] = queue.SimpleQueue()  # None: stop
        # Written by the engine thread, each by one assignment.
        self._engine: LLMEngine | None = None
        self._status = LOADING_STATUS
        self._error: Exception | None = None
        self._events: list[Event] = []  # of the last step: the engine thread's own
        # The event loop's own.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_events: Callable[[list[Event]], None]
        self._on_end: Callable[[], None]
        self._loaded = asyncio.Event()
        self._closed = asyncio.Event()

    def start(self, on_events: Callable[[list[Event]], None], on_end: Callable[[], None]) -> None:
        """Begin to load, from within the running event loop.

        It calls `on_events` with what happened in each step, and once, when no more will, `on_end`.
        A task that waited for steps would cost a turn of the loop per token.
        """
        sys.setswitchinterval(GIL_SWITCH_INTERVAL_S)
        self._loop = asyncio.get_running_loop()
        self._on_events, self._on_end = on_events, on_end
        self._thread.start()

    async def ready(self) -> None:
        """Return when requests are accepted. Raises what `load` raised."""
        await self._loaded.wait()
        if self._error is not None:
            raise self._error

    async def stop(self) -> None:
        """Fail what is unfinished, end the thread after its present step and free the runner."""
        is_loading = self._status.state is EngineState.LOADING
        if is_loading:
            self._close([])
        self._inbox.put(None)  # after _close, which empties the inbox
        if self._engine is not None:
            self._engine.masking.wake()
        if not is_loading:  # loading cannot be interrupted: the thread ends when it is through
            await asyncio.to_thread(self._thread.join)
            await self._closed.wait()

    def check_room(self, scope: str, count: int) -> None:
        if self._engine is not None:
            self._engine.admission.check_room(scope, count)

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request, without waiting for the engine thread.

        Raises InvalidRequest, ContextLengthExceeded, Overloaded or EngineDead.
        """
        state = self.status().state
        if state is EngineState.LOADING:
            raise EngineDead("The model is still loading. Try again in a few seconds.")
        if state is EngineState.DEAD or self._engine is None:
            raise EngineDead("The engine has stopped. The server must be restarted.")
        self._inbox.put(self._engine.admission.admit(request))
        self._engine.masking.wake()

    def cancel(self, request_id: str) -> None:
        """End a request before the next step. It may have ended already, or never existed."""
        self._inbox.put(request_id)
        if self._engine is not None:
            self._engine.masking.wake()

    def status(self) -> EngineStatus:
        """As of the last finished step, but for `num_waiting`, which is exact."""
        status, engine = self._status, self._engine
        if self._closed.is_set():
            return status._replace(state=EngineState.DEAD)
        if engine is None:
            return status
        num_waiting = max(engine.admission.num_active - status.num_running, 0)
        return status._replace(num_waiting=num_waiting)

    def _close(self, events: list[Event]) -> None:
        """The last delivery. On the event loop, so that no `submit` can slip in behind it."""
        if self._closed.is_set():
            return
        self._closed.set()
        while not self._inbox.empty():
            command = self._inbox.get()
            if isinstance(command, Sequence):
                events.append(Failed(command.request_id, _stopped()))
        self._loaded.set()
        if events:
            self._on_events(events)
        self._on_end()

    def _run(self) -> None:
        """The engine thread."""
        try:
            engine = self._load()
        except Exception as error:
            self._error = error
            self._status = self._status._replace(state=EngineState.DEAD)
            self._post(self._close, [])
            return
        self._engine, self._status = engine, engine.status()
        try:
            self._post(self._loaded.set)
            self._serve(engine)
        except Exception:
            logger.exception("the engine thread failed")
        engine.fail_all(_stopped())
        self._status = engine.status()._replace(state=EngineState.DEAD)
        self._post(self._close, self._events + engine.step())
        engine.close()

    def _serve(self, engine: LLMEngine) -> None:
        """Step until stopped or dead; sleep in the inbox while there is nothing to compute.

        A step's events are delivered when the next one is prepared. Woken earlier, the event loop
        would only wait for the GIL, or take it from the thread for which two cores wait.
        """
        while not engine.is_dead and self._take_commands(engine):
            events = engine.step(self._deliver)
            self._events += events
            self._status = engine.status()

    def _deliver(self) -> None:
        if self._events:
            self._post(self._on_events, self._events)
            self._events = []

    def _take_commands(self, engine: LLMEngine) -> bool:
        """Apply what has come in; False when asked to stop."""
        while not (engine.has_work and self._inbox.empty()):
            if not engine.has_work:
                self._deliver()
            command = self._inbox.get()
            if command is None:
                return False
            if isinstance(command, str):
                engine.cancel(command)
            else:
                engine.enqueue(command)
        return True

    def _post(self, callback: Callable[..., None], *args: list[Event]) -> None:
        """Run `callback` on the event loop. If that is gone, nobody reads: stop as well."""
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            self._inbox.put(None)


def _stopped() -> EngineDead:
    return EngineDead("The engine stopped before the answer was complete.")
