"""What passes between layers: a conversation going down, token events coming up.

Knows no wire format, no tensors and no text encoding. Everything here is immutable.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, NamedTuple, Protocol

from llamastream.errors import ChatError
from llamastream.sampling import SamplingParams
from llamastream.tools import AUTO, Tool, ToolChoice

Role = Literal["system", "user", "assistant", "tool"]
CallKind = Literal["function", "custom"]


@dataclass(frozen=True, slots=True)
class Reasoning:
    """What the model thought before it answered."""

    text: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the model does not answer, in its own words."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """`arguments` are JSON as the model wrote it, of a custom tool a text: of a delta, a piece."""

    id: str
    name: str
    arguments: str
    kind: CallKind = "function"


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool answered to the call with this id."""

    call_id: str
    text: str
    kind: CallKind = "function"


OtherPart = Reasoning | Refusal | ToolCall | ToolResult
Part = str | OtherPart
"""A piece of a message. Text is a plain `str`, so that it costs nothing."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation: a text, or parts in order. Control tokens typed in it stay text,
    and so in `name`, the speaker's, which few templates write."""

    role: Role
    content: str | tuple[Part, ...]
    name: str | None = None

    @property
    def parts(self) -> tuple[Part, ...]:
        return (self.content,) if isinstance(self.content, str) else self.content

    @property
    def text(self) -> str:
        """Its text alone."""
        return text_of(self.parts)

    @property
    def size(self) -> int:
        """Characters of all that it holds."""
        return sum(map(_size, self.parts))

    @property
    def reasoning(self) -> str:
        """What was thought before it."""
        return "\n".join(part.text for part in self.parts if isinstance(part, Reasoning))


def _size(part: Part) -> int:
    match part:
        case str():
            return len(part)
        case ToolCall():
            return len(part.name) + len(part.arguments)
        case _:
            return len(part.text)


def text_of(parts: Iterable[Part]) -> str:
    """The text among parts of other kinds."""
    return "".join([part for part in parts if isinstance(part, str)])


class ReasoningStart(StrEnum):
    """Where an answer of a model that reasons begins."""

    OPENED = "opened"  # amid the reasoning: its prompt opens it
    POSSIBLE = "possible"  # the model opens it, if it wants to
    CLOSED = "closed"  # behind it: the prompt says that there shall be none


@dataclass(frozen=True, slots=True)
class Thinking:
    """Whether the model is to reason. `param`: the request's field. It is empty where nobody asked:
    a template that cannot do so then does as it always does."""

    is_on: bool
    param: str = ""


@dataclass(frozen=True, slots=True)
class PromptOptions:
    """How a conversation becomes a prompt. `variables` are the chat template's own, JSON values.

    `continues`: the last message is the beginning of the answer. Else the prompt ends with what
    asks for an answer, unless `add_generation_prompt` is False and the template knows of that.
    `tools`: what the model is told that it may call.
    """

    variables: Mapping[str, Any] = field(default_factory=dict)
    add_generation_prompt: bool = True
    continues: bool = False
    tools: tuple[Tool, ...] = ()
    thinking: Thinking | None = None


PLAIN_PROMPT = PromptOptions()


class FinishReason(StrEnum):
    STOP = "stop"  # a stop token, or (set by the service) a stop string
    LENGTH = "length"  # max_tokens reached
    CANCELLED = "cancelled"  # asked by the client, or the client left


Prompt = tuple[Message, ...] | str | tuple[int, ...]
"""A conversation, a raw text, or token ids taken as they are."""


class GrammarKind(StrEnum):
    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    CHOICE = "choice"
    LARK = "grammar"
    CALLS = "calls"


@dataclass(frozen=True, slots=True)
class GrammarSpec:
    """What an answer must keep to, as it was asked for.

    `text`: the schema or the list of choices as JSON, the pattern, or the grammar in Lark; of calls
    a JSON object with the tools, their format, and what an answer that is no call must keep to.
    `strict`: refused where not all of it can be enforced; else that is checked at the end, and
    named in warnings. `param`: the request's field.
    """

    kind: GrammarKind
    text: str
    strict: bool = True
    param: str = "response_format"


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What a transport asks of the service, checked so that nothing below checks it again.

    `sampling.stop_token_ids` holds the user's own; the service adds the model's, but for
    `ignore_eos`. `include_stop` leaves the matched stop string or token in the text. `scope` names
    the API key (empty: anonymous); ids and prefix cache are bound to it. `label` is the caller's
    own name for the request, for the log. Choice p * n + i continues prompt p, `more_prompts`
    being those from 1 on.
    """

    prompt: Prompt
    sampling: SamplingParams = SamplingParams()
    n: int = 1  # choices per prompt
    more_prompts: tuple[Prompt, ...] = ()
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    include_stop: bool = False
    skip_special_tokens: bool = True
    truncation: Literal["disabled", "auto"] = "disabled"
    num_unread_turns: int = 0  # dropped already: turns before the first that cannot fit
    cuts_max_tokens: bool = False  # of the sampling's, as many as there is room for
    max_prompt_tokens: int | None = None  # the last so many; -1: as many as there is room for
    prompt_options: PromptOptions = PLAIN_PROMPT
    grammar: GrammarSpec | None = None
    tool_choice: ToolChoice = AUTO  # of the tools of `prompt_options`
    thinking_budget: int | None = None  # most tokens of reasoning
    prompt_logprobs: int | None = None  # see GenerationRequest
    scope: str = ""
    label: str = ""

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        return (self.prompt, *self.more_prompts)

    @property
    def num_choices(self) -> int:
        """Of all prompts."""
        return len(self.prompts) * self.n


class Constraint(Protocol):
    """What may come next of one answer. Used by one thread at a time.

    A function of the tokens it was given alone. Its methods raise ChatError where it cannot go on.
    """

    def append(self, token_ids: Sequence[int]) -> None:
        """What was drawn next. No stop token: nothing follows that."""
        ...

    def mask(self) -> bytes:
        """A bit per id of the vocabulary, in 32-bit little-endian words: whether it may be next."""
        ...

    def forced(self) -> list[int]:
        """Tokens of which each is the only one that may be next; perhaps not all such."""
        ...

    def num_allowed(self, token_ids: Sequence[int]) -> int:
        """How many of these may come next, one after another."""
        ...

    def fork(self) -> "Constraint":
        """One of its own that has been given the same."""
        ...


class Grammar(Protocol):
    """What an answer must keep to, compiled. Immutable. `param`: the request's field."""

    @property
    def param(self) -> str: ...

    def start(self) -> Constraint: ...


class BlockOwner(Protocol):
    """For whom the engine keeps blocks of its cache on disk: a conversation, or the first of
    answers that continue each other."""

    def confirm(self) -> None:
        """What is to be kept is stored: nothing was written before."""
        ...


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """Token ids in: what the engine is asked to continue.

    `output_ids` were generated before (a stream resumed after a restart): they count towards
    `max_tokens`, are not reported again, and generation goes on at the position after them.
    `expected_ids` are believed to come next: they are computed along as a prompt is, and each is
    drawn none the less. `cache_salt` keeps the prefix caches of different API keys apart, None: all
    is computed, and nothing left there; seats and tokens are shared out by `scope`. With a
    `grammar` only what it allows is drawn. With `prompt_logprobs` the prompt's tokens are reported
    as well, but for the first, with so many alternatives.
    """

    request_id: str
    prompt_ids: Sequence[int]
    sampling: SamplingParams
    output_ids: Sequence[int] = ()
    cache_salt: bytes | None = b""
    scope: str = ""
    grammar: Grammar | None = None
    prompt_logprobs: int | None = None
    expected_ids: Sequence[int] = ()
    owner: BlockOwner | None = None  # None: nothing of it is kept on disk


class Token(NamedTuple):
    """One generated token, the stop token included. `position` counts outputs from 0."""

    request_id: str
    position: int
    token_id: int
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()  # (token id, logprob), most likely first


class PromptTokens(NamedTuple):
    """The prompt's next tokens, where asked for: all of them before the first Token. `position`
    counts the prompt's."""

    request_id: str
    tokens: tuple[Token, ...]


class Finished(NamedTuple):
    """The normal end of a request: the last event it has."""

    request_id: str
    reason: FinishReason
    num_prompt_tokens: int
    num_cached_tokens: int  # of the prompt, found in the prefix cache when first scheduled
    num_output_tokens: int
    queue_s: float | None = None  # from admission until first scheduled, if it ever was


class Failed(NamedTuple):
    """The abnormal end of a request: the last event it has."""

    request_id: str
    error: ChatError


Event = Token | PromptTokens | Finished | Failed


class TokenLogprob(NamedTuple):
    """A token, its log-probability and the likeliest alternatives (themselves without any)."""

    token_id: int
    token: bytes  # the bytes this token stands for
    logprob: float
    top: tuple["TokenLogprob", ...] = ()


class Delta(NamedTuple):
    """One piece of one choice's answer: what a transport frames and sends.

    Concatenated over a choice, `text` is the whole visible text and `token_ids` are all generated
    ids. `text` may be empty: a character or a possible stop string may still be held back. Pieces
    of `parts` are none of text: reasoning comes before all text, calls come behind. The last delta
    of a choice, and only it, has a `finish_reason`.
    """

    choice: int  # 0 .. number of prompts * n - 1
    sequence_number: int  # counts the deltas of one stream from 0
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()  # one per token id, when asked for
    finish_reason: FinishReason | None = None
    parts: tuple[OtherPart, ...] = ()


class Usage(NamedTuple):
    """Token counts of a finished stream, all choices together."""

    num_prompt_tokens: int
    num_cached_tokens: int
    num_output_tokens: int
    num_reasoning_tokens: int = 0  # of the output's


class EngineState(StrEnum):
    LOADING = "loading"
    READY = "ready"
    DEAD = "dead"


class DiskStatus(NamedTuple):
    """Blocks of the KV cache on disk; numbers are those since the start."""

    num_bytes: int = 0
    max_bytes: int = 0
    num_read: int = 0
    num_written: int = 0
    num_dropped: int = 0  # not written: the disk was too slow, too full or failing
    num_damaged: int = 0  # and so not used
    num_failures: int = 0  # of the file system


class EngineStatus(NamedTuple):
    """A snapshot for health checks, admission and metrics."""

    state: EngineState
    max_model_len: int
    vocab_size: int
    num_running: int
    num_waiting: int
    num_blocks: int
    num_free_blocks: int
    num_drafted_tokens: int = 0  # since the start, by speculation
    num_accepted_tokens: int = 0  # of these, drawn
    disk: DiskStatus = DiskStatus()
