"""The body of POST /v1/chat/completions, checked and turned into a ChatRequest."""

from typing import Annotated, Any

from pydantic import Field

from llamastream.errors import InvalidRequest
from llamastream.messages import ChatRequest, Message
from llamastream.sampling import MAX_LOGPROBS, SamplingParams
from llamastream.server import unsupported
from llamastream.server.messages import parse_content, parse_role
from llamastream.server.options import GenerationOptions, MaxTokens, WireModel, validate

# Fields of an answer that clients send back with it. Empty, they say nothing.
EMPTY_FIELDS = ("refusal", "tool_calls", "function_call", "audio", "annotations", "name")
Metadata = Annotated[
    dict[
        Annotated[str, Field(max_length=64)],
        Annotated[str, Field(max_length=512)],
    ],
    Field(max_length=16),
]


class ChangedMetadata(WireModel):
    metadata: Metadata | None


class ChatCompletionBody(GenerationOptions):
    """`metadata` comes back in a whole answer, as OpenAI's does."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    max_completion_tokens: MaxTokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    metadata: Metadata | None = None
    store: bool | None = None

    def to_request(self, defaults: SamplingParams, scope: str, label: str) -> ChatRequest:
        """Raises InvalidRequest."""
        sampling = self.sampling(
            defaults, self._max_tokens(), self._num_logprobs(), self.logit_bias
        )
        return self.build(to_messages(self.messages), sampling, scope=scope, label=label)

    def _max_tokens(self) -> int | None:
        old, new = self.max_tokens, self.max_completion_tokens
        if old is not None and new is not None and old != new:
            raise InvalidRequest(
                f"max_tokens ({old}) and max_completion_tokens ({new}) contradict each other. "
                "Send one of them.",
                param="max_tokens",
            )
        return old if new is None else new

    def _num_logprobs(self) -> int | None:
        if self.logprobs:
            return self.top_logprobs or 0
        if self.top_logprobs:
            raise InvalidRequest("top_logprobs needs `logprobs: true`.", param="top_logprobs")
        return None


def parse_chat(body: dict[str, Any]) -> ChatCompletionBody:
    """Raises InvalidRequest."""
    return validate(ChatCompletionBody, unsupported.without_defaults(body, unsupported.CHAT))


def to_messages(raw: list[dict[str, Any]]) -> tuple[Message, ...]:
    """Raises InvalidRequest."""
    return tuple(_message(index, message) for index, message in enumerate(raw))


def _message(index: int, raw: dict[str, Any]) -> Message:
    where = f"messages[{index}]"
    role = parse_role(raw, where)
    for name, value in raw.items():
        if name not in ("role", "content") and (
            name not in EMPTY_FIELDS or value not in (None, [])
        ):
            raise InvalidRequest(
                f"{where}.{name[:60]} is not supported. Leave it out.",
                param=f"{where}.{name[:60]}",
            )
    texts = parse_content(raw.get("content"), f"{where}.content", types=("text",))
    return Message(role, "".join(texts))
