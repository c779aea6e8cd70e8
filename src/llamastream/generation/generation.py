"""One answer, from its request to its end: a state, a log, and how much of the log may be shown.

Knows neither engine nor store. What is written to the log is shown by `publish`: at once where
nobody keeps the answer, and once it is committed where it is stored; its `Keeper` decides. Readers
are positions in the log. The invariant: entry n is the same for each reader, whenever it comes.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

from llamastream.errors import ChatError
from llamastream.generation.choice import Choice, TextRules
from llamastream.generation.grammars import GrammarRecord
from llamastream.generation.log import Log
from llamastream.generation.reader import Reader
from llamastream.generation.report import Report
from llamastream.records import CacheRetention, Status
from llamastream.types import Delta, Finished, FinishReason, Token, ToolCall, Usage

if TYPE_CHECKING:
    from llamastream.grammar import AnyGrammar

Json = dict[str, Any]

STATUSES = {
    FinishReason.STOP: Status.COMPLETED,
    FinishReason.LENGTH: Status.INCOMPLETE,
    FinishReason.CANCELLED: Status.CANCELLED,
}
FINISH_REASONS = {status: reason for reason, status in STATUSES.items()}


class State(Enum):
    """
    QUEUED ──▶ RUNNING ──▶ ENDING ──▶ ENDED
      ▲          │  ▲▼        │
      │          │ STOPPING   │
      └─ PARKED ◀┴────────────┘
    """

    QUEUED = auto()  # not given to the engine yet, or to be given to it again
    RUNNING = auto()  # the engine has it
    STOPPING = auto()  # the engine was asked to end it
    PARKED = auto()  # taken from the engine, since what was drawn could not be kept
    ENDING = auto()  # all is drawn; how it ended is being recorded
    ENDED = auto()  # also: removed. Nothing more comes of it


class End(NamedTuple):
    """How an answer ended."""

    status: Status
    usage: Usage | None
    finished_at: float | None  # seconds since 1970
    error: str | None = None  # of one that failed
    warnings: tuple[str, ...] = ()  # what was asked of the text and could not be enforced


@dataclass(frozen=True, slots=True)
class Details:
    """What is kept of a request beside prompts and sampling. `wire` is its format's own."""

    wire: Json
    rules: TextRules
    background: bool
    num_dropped_turns: int
    model_id: str  # whose tokens these are
    prompt_token_ids: tuple[int, ...] | None  # if the format shows them
    after: str | None = None  # what it follows in its conversation, see Item
    has_input: bool = True  # which then follows that, and the answer follows the input
    grammar: GrammarRecord | None = None
    prompt_sha256: str | None = None  # see `receipts`; unknown of older answers
    cache_retention: CacheRetention | None = None

    def to_json(self) -> Json:
        stop_ids = sorted(self.rules.stop_token_ids)
        return asdict(self) | {"rules": asdict(self.rules) | {"stop_token_ids": stop_ids}}

    @classmethod
    def from_json(cls, fields: Json) -> Self:
        grammar = fields.get("grammar")  # unknown of answers that were stored without any
        typed = {
            "rules": TextRules.from_json(fields["rules"]),
            "grammar": None if grammar is None else GrammarRecord(**grammar),
        }
        return cls(**fields | typed)


class Keeper(Protocol):
    """What becomes of an answer on its way: shown at once, or stored before."""

    def drawn(self, generations: Iterable["Generation"]) -> None:
        """A step's tokens are in the logs of these."""
        ...

    def ended(self, generation: "Generation") -> None:
        """All is drawn, and in its log."""
        ...

    def failed(self, generation: "Generation", error: ChatError) -> None:
        """The engine gave it up."""
        ...

    def readers_changed(self, generation: "Generation", change: int) -> None:
        """One more, or one less."""
        ...


@dataclass(slots=True)
class Times:
    """In seconds, on the process's clock, since this server began or resumed the answer."""

    opened_s: float = field(default_factory=time.perf_counter)
    first_s: float | None = None
    last_s: float = 0.0
    num_before: int = 0  # tokens of all choices that were there before the first
    queue_s: float | None = None

    def latencies(self, num_tokens: int, num_choices: int) -> tuple[float | None, float | None]:
        """To the first token, and between the tokens of one choice, by how many there are now."""
        if self.first_s is None:
            return None, None
        per_choice = (num_tokens - self.num_before) / num_choices
        itl_s = (self.last_s - self.first_s) / (per_choice - 1) if per_choice > 1 else None
        return self.first_s - self.opened_s, itl_s


class Generation:
    """Written by its keeper and the dispatcher; read through `follow`, and when it has ended."""

    def __init__(
        self,
        id: str,
        details: Details,
        choices: Sequence[Choice],
        keeper: Keeper,
        *,
        created_at: float,
        label: str = "",
        choices_per_prompt: int = 1,
    ) -> None:
        self.id = id
        self.details = details
        self.choices = list(choices)
        self.keeper = keeper
        self.created_at = created_at  # seconds since 1970
        self.scope = ""  # of the API key that it belongs to
        self.is_stored = False
        self.conversation_id: str | None = None
        self.previous_response_id: str | None = None
        self.grammar: AnyGrammar | None = None
        self.state = State.QUEUED
        self.log = Log()
        self.num_public = 0
        self.error: ChatError | None = None  # nothing more comes here, perhaps later
        self.end: End | None = None
        self.is_cancelled = False  # asked for by somebody; whatever state it is in meanwhile
        self.num_readers = 0
        self._readers: dict[Reader, None] = {}
        self._label = label
        self._choices_per_prompt = choices_per_prompt
        self._num_cached: dict[int, int] = {}  # by prompt
        self._times = Times()

    @property
    def prompts(self) -> tuple[tuple[int, ...], ...]:
        """Their token ids."""
        firsts = self.choices[:: self._choices_per_prompt]
        return tuple(tuple(choice.request.prompt_ids) for choice in firsts)

    @property
    def num_tokens(self) -> int:
        """Of all choices, as their stop strings cut them."""
        return sum(choice.num_output_tokens for choice in self.choices)

    def usage(self) -> Usage:
        """A prompt counts once, however many choices continue it."""
        return Usage(
            num_prompt_tokens=sum(map(len, self.prompts)),
            num_cached_tokens=sum(self._num_cached.values()),
            num_output_tokens=self.num_tokens,
            num_reasoning_tokens=sum(choice.num_reasoning_tokens for choice in self.choices),
        )

    def warnings(self) -> tuple[str, ...]:
        """What is to be said of its texts, once all is drawn; each once."""
        if self.grammar is None:
            return ()
        warnings = self.grammar.warnings
        said = (
            warnings(delta.text, [part for part in delta.parts if isinstance(part, ToolCall)])
            for delta in self.log.joined(len(self.choices))
        )
        return tuple(dict.fromkeys(warning for found in said for warning in found))

    # What the engine says, by the dispatcher.

    def take(self, choice: Choice, token: Token, now_s: float | None = None) -> None:
        """One more token, drawn at `now_s`, or before this server had the answer."""
        if now_s is not None:
            times = self._times
            times.last_s = now_s
            if times.first_s is None:
                times.first_s, times.num_before = now_s, self.num_tokens
        _, _, token_id, logprob, _ = token
        text = choice.add(token_id)
        found = None if logprob is None else choice.logprob(token)
        self.log.append(choice.index, text, token_id, found, choice.finish_reason, choice.parts)

    def finish_choice(self, choice: Choice, event: Finished) -> None:
        """One engine request is over."""
        prompt = choice.index // self._choices_per_prompt
        known = self._num_cached.get(prompt, event.num_cached_tokens)
        self._num_cached[prompt] = min(known, event.num_cached_tokens)
        if self._times.queue_s is None:
            self._times.queue_s = event.queue_s
        self.end_text(choice, FinishReason.CANCELLED if self.is_cancelled else event.reason)

    def end_text(self, choice: Choice, reason: FinishReason) -> None:
        """What a choice held back, and why it ended, unless its last token has said so."""
        if choice.finish_reason is None:
            text = choice.finish(reason)
            reason = choice.finish_reason or reason
            self.log.append(choice.index, text, reason=reason, parts=choice.parts)

    # What its keeper decides.

    def publish(self, num_public: int) -> None:
        """Show the log up to here. Never waits for a reader."""
        if num_public > self.num_public:
            self.num_public = num_public
            for reader in self._readers:
                reader.on_news()

    def finish(self, end: End) -> None:
        self.end = end
        self.state = State.ENDED
        self.num_public = len(self.log)
        self._tell()

    def fail(self, error: ChatError) -> None:
        """Readers are told, behind what was shown."""
        self.error = error
        self._tell()

    def rewind(self, length: int) -> None:
        """Back to an earlier length, with one choice: what is behind it is drawn again."""
        (choice,) = self.choices
        ids = self.log.token_ids()[:length]
        self.log = self.log.head(length)
        self.num_public = min(self.num_public, length)
        self.choices = [again := choice.again(choice.request)]
        for token_id in ids:
            again.add(token_id)

    def report(self, key: str) -> Report:
        """`key`: the name of the API key that asked."""
        usage = self.usage()
        ttft_s, itl_s = self._times.latencies(self.num_tokens, len(self.choices))
        return Report(
            self.id, key, self._label, usage, self._times.queue_s, ttft_s, itl_s, self._outcome()
        )

    # What readers do.

    @contextmanager
    def follow(
        self, start: int = 0, push: Callable[[Delta], bool] | None = None
    ) -> Iterator[Reader]:
        """Read from entry `start` on; see `Reader`."""
        reader = Reader(self, start, push)
        self._readers[reader] = None
        self.num_readers += 1
        self.keeper.readers_changed(self, 1)
        try:
            yield reader
        finally:
            reader.close()
            del self._readers[reader]
            self.num_readers -= 1
            self.keeper.readers_changed(self, -1)

    async def over(self) -> None:
        """Return when it has ended, or will not go on here."""
        with self.follow(len(self.log), lambda _: True) as reader:
            while self.end is None and self.error is None:
                await reader.wait()

    def _tell(self) -> None:
        for reader in self._readers:
            reader.on_news()

    def _outcome(self) -> str:
        """The error's code, or how the first choice ended."""
        if self.error is not None:
            return self.error.code
        if self.end is not None and self.end.status is Status.FAILED:
            return ChatError.code
        if self.is_cancelled:
            return FinishReason.CANCELLED.value
        reason = self.choices[0].finish_reason
        return FinishReason.CANCELLED.value if reason is None else reason.value
