"""What passes between layers: a conversation going down, token events coming up.

Knows no wire format, no tensors and no text encoding. Everything here is immutable.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, NamedTuple

from llamastream.errors import ChatError
from llamastream.sampling import SamplingParams

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. `content` is plain text: control tokens typed in it stay text."""

    role: Role
    content: str


class FinishReason(StrEnum):
    STOP = "stop"  # a stop token, or (set by the service) a stop string
    LENGTH = "length"  # max_tokens reached
    CANCELLED = "cancelled"  # asked by the client, or the client left


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """Token ids in: what the engine is asked to continue.

    `output_ids` were generated before (a stream resumed after a restart): they count towards
    `max_tokens`, are not reported again, and generation goes on at the position after them.
    `cache_salt` keeps the prefix caches of different API keys apart.
    """

    request_id: str
    prompt_ids: Sequence[int]
    sampling: SamplingParams
    output_ids: Sequence[int] = ()
    cache_salt: bytes = b""


class Token(NamedTuple):
    """One generated token, the stop token included. `index` counts the outputs from 0."""

    request_id: str
    index: int
    token_id: int
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()  # (token id, logprob), most likely first


class Finished(NamedTuple):
    """The normal end of a request: the last event it has."""

    request_id: str
    reason: FinishReason
    num_prompt_tokens: int
    num_cached_tokens: int  # of the prompt, found in the prefix cache when first scheduled
    num_output_tokens: int


class Failed(NamedTuple):
    """The abnormal end of a request: the last event it has."""

    request_id: str
    error: ChatError


Event = Token | Finished | Failed


class EngineState(StrEnum):
    LOADING = "loading"
    READY = "ready"
    DEAD = "dead"


class EngineStatus(NamedTuple):
    """A snapshot for health checks, admission and metrics."""

    state: EngineState
    max_model_len: int
    vocab_size: int
    num_running: int
    num_waiting: int
    num_blocks: int
    num_free_blocks: int
