"""What the store takes and gives: plain values, no rows and no connections.

Bodies, requests, results and metadata are JSON objects of the wire, opaque here. Times are seconds
since 1970.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

from llamastream.errors import InvalidRequest
from llamastream.sampling import SamplingParams
from llamastream.types import Token, TokenLogprob

Json = dict[str, Any]
T = TypeVar("T")

MAX_LIMIT = 100  # OpenAI's limit of one page
MAX_KEY_CHARS = 255  # longest Idempotency-Key


CacheRetention = Literal["in_memory", "24h"]
"""How long a request's cache blocks may be kept at most: not on disk, or for a day."""


class Status(StrEnum):
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    INCOMPLETE = "incomplete"  # max_output_tokens reached
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class PageQuery:
    """Which part of a list: at most `limit` entries behind the one with the id `after`."""

    after: str | None = None
    limit: int = 20
    order: Literal["asc", "desc"] = "desc"  # by age; desc is newest first

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= MAX_LIMIT:
            raise InvalidRequest(
                f"limit must be >= 1 and <= {MAX_LIMIT}. Given: {self.limit}.", param="limit"
            )


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    data: tuple[T, ...]
    has_more: bool


ROOT = "root"  # what the first item of a conversation follows


class Item(NamedTuple):
    """One item of a conversation or a response. `id` is unique within each conversation.

    `follows` is the id of the item of the conversation that it follows, or ROOT; None: the one that
    was added before it.
    """

    id: str
    body: Json
    follows: str | None = None


class Found(NamedTuple):
    """What a search found: by its title, or by what an item says."""

    conversation: "Conversation"
    item: Item | None


class IdempotencyKey(NamedTuple):
    """The caller's key for a request, and a digest of everything that makes the request."""

    key: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class NewResponse:
    """A response about to be generated. `prompt_ids` and `sampling` are all a restart needs."""

    id: str
    request: Json
    prompt_ids: Sequence[int]
    sampling: SamplingParams
    input_items: Sequence[Item] = ()
    conversation_id: str | None = None
    previous_response_id: str | None = None
    idempotency: IdempotencyKey | None = None

    def __post_init__(self) -> None:
        if self.conversation_id is not None and self.previous_response_id is not None:
            raise InvalidRequest(
                "conversation and previous_response_id cannot both be given: send one of them.",
                param="previous_response_id",
            )
        if self.sampling.seed is None:
            raise ValueError("a stored response needs its seed, or a restart would draw others")


@dataclass(frozen=True, slots=True)
class Response:
    """A stored response, without its tokens and its items."""

    id: str
    scope: str
    status: Status
    created_at: float
    finished_at: float | None
    conversation_id: str | None
    previous_response_id: str | None
    request: Json
    result: Json | None  # None until finished, and when a restart failed it
    error: str | None


class Recorded(NamedTuple):
    """A response with what it was drawn from."""

    response: Response
    prompt_ids: tuple[int, ...] | None  # None: kept no more, or of an older release
    sampling: SamplingParams
    token_ids: tuple[int, ...]


class DrawnLog(Protocol):
    """The tokens of a response, in order of position. It grows at its end alone, and is read on the
    store's thread, too."""

    def drawn(self, start: int, end: int) -> tuple[Sequence[int], Sequence[TokenLogprob | None]]:
        """Ids from position `start` to before `end`, and what is known of their probabilities:
        nothing at all if of none of them."""
        ...


class Drawn(NamedTuple):
    """How far a response has come: the first `num_tokens` of its log."""

    id: str
    log: DrawnLog
    num_tokens: int


class Created(NamedTuple):
    """`existing` is true for an Idempotency-Key seen before: generate nothing, give `response`."""

    response: Response
    existing: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a response ended."""

    status: Status
    result: Json
    output_items: Sequence[Item] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Interrupted:
    """A response to go on with, at the position behind `output_ids`."""

    response: Response
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    output_ids: tuple[int, ...]
    is_cancelled: bool


class Recovery(NamedTuple):
    interrupted: tuple[Interrupted, ...]  # oldest first
    failed: tuple[str, ...]  # ids given up, by now failed


class Asked(NamedTuple):
    """What other servers say of a response that this one generates."""

    id: str
    is_cancelled: bool
    num_follows: int  # counted on while it has readers there


class News(NamedTuple):
    """What a look at the other servers brought."""

    recovery: Recovery
    asked: Sequence[Asked]
    removed: Sequence[str]  # ids of what another server deleted


class Growth(NamedTuple):
    """What has become of a response since it was looked at last."""

    tokens: Sequence[Token]
    ended: Response | None


@dataclass(frozen=True, slots=True)
class Conversation:
    id: str
    scope: str
    created_at: float
    metadata: Json


@dataclass(frozen=True, slots=True)
class Preset:
    """Options of requests under a name, which is one of a kind in its scope."""

    id: str
    scope: str
    created_at: float
    name: str
    settings: Json


@dataclass(frozen=True, slots=True)
class Retention:
    """What may be forgotten. None is no limit. Only what is finished is ever forgotten."""

    max_age_s: float | None = None  # since a response ended, or a conversation last changed
    max_responses: int | None = None
    max_conversations: int | None = None


class ScopeUsage(NamedTuple):
    """What an API key's scope keeps.

    Bytes are those of what is stored, and some for each row. The tokens of a response in progress
    count when it ends.
    """

    num_responses: int
    num_bytes: int


class AllowStore(Protocol):
    def __call__(self, usage: ScopeUsage, *, is_response: bool) -> None:
        """Raises the ChatError that keeps a scope, which stores this much, from storing more: a
        response, or anything else."""
        ...


@dataclass(frozen=True, slots=True)
class ConversationLimits:
    """What one conversation may hold, so that a page or a history of it stays small."""

    max_items: int = 10_000
    max_bytes: int = 16 * 2**20


class Outline(NamedTuple):
    """An item that was not read: what it takes up, and who spoke, if that is known."""

    num_bytes: int
    role: str | None


class Swept(NamedTuple):
    num_responses: int
    num_conversations: int
    num_keys: int  # of idempotency
    more: bool  # the limit was reached: call again
