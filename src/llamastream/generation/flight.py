"""One stream while its engine requests are alive: what is counted, timed and logged about it."""

import time
import uuid
from collections.abc import Callable

from llamastream.errors import ChatError
from llamastream.generation.choice import Choice
from llamastream.generation.report import Report
from llamastream.generation.stream import Stream
from llamastream.metrics import Metrics
from llamastream.types import ChatRequest, Finished, FinishReason, Usage


class Flight:
    """Counts and times of one stream. The service feeds it, once per event."""

    def __init__(
        self,
        request: ChatRequest,
        prompts: tuple[tuple[int, ...], ...],
        *,
        num_dropped_turns: int,
        cancel: Callable[[str], None],
    ) -> None:
        """`cancel` ends an engine request by its id."""
        self.stream = Stream(
            uuid.uuid4().hex,
            prompts,
            num_dropped_turns=num_dropped_turns,
            on_close=self.cancel,
        )
        self.error: ChatError | None = None
        self.choices: dict[str, Choice] = {}  # by engine request id
        self.alive: set[str] = set()  # engine requests that have not ended
        self._cancel = cancel
        self._label = request.label
        self._n = request.n
        self._opened_s = time.perf_counter()
        self._first_token_s: float | None = None
        self._last_token_s = self._opened_s
        self._num_cached: dict[int, int] = {}  # by prompt
        self._queue_s: float | None = None

    @property
    def has_reader(self) -> bool:
        """False once nobody will read what comes: the reader left, or the stream failed."""
        return self.error is None and not self.stream.closed

    def cancel(self) -> None:
        """End what still runs. The flight lasts until the engine has confirmed it."""
        for request_id in self.alive:
            self._cancel(request_id)

    def saw_token(self, now_s: float) -> None:
        if self._first_token_s is None:
            self._first_token_s = now_s
        self._last_token_s = now_s

    def request_ended(self, event: Finished) -> None:
        """One of the engine requests is over."""
        self.alive.discard(event.request_id)
        prompt = self.choices[event.request_id].index // self._n
        known = self._num_cached.get(prompt, event.num_cached_tokens)
        self._num_cached[prompt] = min(known, event.num_cached_tokens)
        if self._queue_s is None:
            self._queue_s = event.queue_s

    def usage(self) -> Usage:
        """A prompt counts once, however many choices continue it."""
        return Usage(
            num_prompt_tokens=sum(map(len, self.stream.prompts)),
            num_cached_tokens=sum(self._num_cached.values()),
            num_output_tokens=sum(c.num_output_tokens for c in self.choices.values()),
        )

    def report(self, metrics: Metrics) -> None:
        """Write the one log line of this request and count it."""
        usage = self.usage()
        outcome = self._outcome()
        ttft_s, itl_s = self._latencies(usage.num_output_tokens)
        report = Report(self.stream.id, self._label, usage, self._queue_s, ttft_s, itl_s, outcome)
        report.write(metrics)

    def _outcome(self) -> str:
        """The error's code, or how the first choice ended."""
        if self.error is not None:
            return self.error.code
        if self.stream.closed:
            return FinishReason.CANCELLED.value
        first = next(iter(self.choices.values()))
        return first.finish_reason.value if first.finish_reason else FinishReason.CANCELLED.value

    def _latencies(self, num_output_tokens: int) -> tuple[float | None, float | None]:
        """Time to the first token, and between the tokens of one choice, in seconds."""
        if self._first_token_s is None:
            return None, None
        ttft_s = self._first_token_s - self._opened_s
        per_choice = num_output_tokens / len(self.choices)
        if per_choice <= 1:
            return ttft_s, None
        return ttft_s, (self._last_token_s - self._first_token_s) / (per_choice - 1)
