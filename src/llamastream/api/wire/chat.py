"""Chat completions on the wire: the body of a request, `chat.completion` and its chunks."""

from typing import Annotated, Any

import orjson
from pydantic import Field

from llamastream.api.wire.messages import parse_messages
from llamastream.api.wire.openai import (
    FINISH_REASONS,
    Answer,
    by_choice,
    event,
    logprob_entries,
    usage_fields,
)
from llamastream.api.wire.options import GenerationOptions, MaxTokens, Metadata
from llamastream.errors import InvalidRequest
from llamastream.sampling import MAX_LOGPROBS, SamplingParams
from llamastream.types import ChatRequest, Delta, FinishReason, Usage


class ChatCompletionBody(GenerationOptions):
    """`metadata` comes back in a whole answer, as OpenAI's does."""

    UNSUPPORTED = {
        "tools": (),
        "tool_choice": ("none", "auto"),
        "parallel_tool_calls": (True, False),  # says nothing without tools
        "functions": (),
        "function_call": ("none", "auto"),
        "audio": (),
        "modalities": (["text"],),
        "moderation": (),
        "prediction": (),
        "prompt_cache_options": (),
        "prompt_cache_retention": (),
        "reasoning_effort": ("none",),
        "response_format": ({"type": "text"},),
        "service_tier": ("auto", "default"),
        "verbosity": ("medium",),
        "web_search_options": (),
    }

    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    max_completion_tokens: MaxTokens = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    metadata: Metadata | None = None
    store: bool | None = None

    def to_request(self, defaults: SamplingParams, scope: str, label: str) -> ChatRequest:
        """Raises InvalidRequest."""
        sampling = self.sampling(
            defaults, self._max_tokens(), self._num_logprobs(), self.logit_bias
        )
        return self.build(parse_messages(self.messages), sampling, scope=scope, label=label)

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


class ChatFormat:
    """The role comes with a choice's first chunk, the finish reason in a last one of its own."""

    def __init__(self, answer: Answer, metadata: dict[str, str] | None = None) -> None:
        self._answer = answer
        self._metadata = metadata
        self._is_plain = not (answer.logprobs or answer.return_token_ids)
        self._started = [False] * answer.n
        self._before = [self._split(index)[0] for index in range(answer.n)]
        self._after = self._split(0)[1]
        self._extras = answer.extras()

    def frames(self, delta: Delta) -> list[bytes]:
        frames: list[bytes] = []
        if not self._started[delta.choice]:
            self._started[delta.choice] = True
            frames.append(self._first(delta.choice))
        if self._is_plain:
            if delta.text:
                text = orjson.dumps(delta.text)
                frames.append(self._before[delta.choice] + text + self._after)
        elif delta.text or delta.token_ids:
            frames.append(self._detailed(delta))
        if delta.finish_reason is not None:
            frames.append(self._chunk(delta.choice, {}, finish=delta.finish_reason))
        return frames

    def last_frames(self, usage: Usage) -> list[bytes]:
        return self._answer.last_frames("chat.completion.chunk", usage)

    def whole(self, deltas: list[Delta], usage: Usage) -> bytes:
        return orjson.dumps(self.completion(by_choice(deltas, self._answer.n), usage))

    def completion(self, deltas: list[Delta], usage: Usage) -> dict[str, Any]:
        """The `chat.completion` of one delta per choice."""
        choices = [self._whole_choice(delta) for delta in deltas]
        return {
            **self._answer.head("chat.completion"),
            "choices": choices,
            "usage": usage_fields(usage),
            **({} if self._metadata is None else {"metadata": self._metadata}),
            **self._extras,
        }

    def _whole_choice(self, delta: Delta) -> dict[str, Any]:
        assert delta.finish_reason is not None
        choice: dict[str, Any] = {
            "index": delta.choice,
            "message": {"role": "assistant", "content": delta.text, "refusal": None},
            "logprobs": self._logprobs(delta),
            "finish_reason": FINISH_REASONS[delta.finish_reason],
        }
        if self._answer.return_token_ids:
            choice["token_ids"] = delta.token_ids
        return choice

    def _first(self, index: int) -> bytes:
        delta = {"role": "assistant", "content": ""}
        return self._chunk(index, delta, extras=self._extras)

    def _detailed(self, delta: Delta) -> bytes:
        more: dict[str, Any] = {"logprobs": self._logprobs(delta)}
        if self._answer.return_token_ids:
            more["token_ids"] = delta.token_ids
        return self._chunk(delta.choice, {"content": delta.text}, more=more)

    def _chunk(
        self,
        index: int,
        content: dict[str, Any],
        *,
        finish: FinishReason | None = None,
        more: dict[str, Any] | None = None,
        extras: dict[str, Any] | None = None,
    ) -> bytes:
        reason = None if finish is None else FINISH_REASONS[finish]
        choice = {"index": index, "delta": content, "logprobs": None, "finish_reason": reason}
        choice |= more or {}
        chunk = {**self._answer.head("chat.completion.chunk"), "choices": [choice]}
        if self._answer.include_usage:
            chunk["usage"] = None
        return event(chunk | (extras or {}))

    def _split(self, index: int) -> tuple[bytes, bytes]:
        """A content chunk's bytes before and after its text."""
        before, _, after = self._chunk(index, {"content": 0}).partition(b'"content":0')
        return before + b'"content":', after

    def _logprobs(self, delta: Delta) -> dict[str, Any] | None:
        if not self._answer.logprobs:
            return None
        return {"content": logprob_entries(delta.logprobs), "refusal": None}
