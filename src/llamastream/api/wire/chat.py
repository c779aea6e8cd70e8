"""Chat completions on the wire: the body of a request, `chat.completion` and its chunks."""

import uuid
from dataclasses import replace
from typing import Annotated, Any

import orjson
from pydantic import Field

from llamastream.api.wire.format import START, Caller, Endpoint, Format
from llamastream.api.wire.grammars import FormatOptions
from llamastream.api.wire.messages import Messages, parse_messages
from llamastream.api.wire.openai import (
    FINISH_REASONS,
    Answer,
    ChunkFormat,
    Shown,
    error_event,
    event,
    logprob_entries,
    usage_fields,
)
from llamastream.api.wire.options import (
    Effort,
    GenerationOptions,
    MaxTokens,
    Metadata,
    TemplateOptions,
    thinking_of,
    validate,
)
from llamastream.api.wire.tools import (
    ChatTools,
    chat_call,
    chat_piece,
    read_choice,
    read_tools,
)
from llamastream.errors import ChatError, InvalidRequest
from llamastream.generation import Generation, NewAnswer
from llamastream.generation.generation import FINISH_REASONS as REASONS_OF
from llamastream.generation.items import new_item, parts_of, result_of
from llamastream.records import Item, Response
from llamastream.sampling import MAX_LOGPROBS, SamplingParams
from llamastream.tools import AUTO
from llamastream.types import (
    ChatRequest,
    Delta,
    FinishReason,
    Reasoning,
    ToolCall,
    ToolResult,
    Usage,
    text_of,
)

PREFIX = "chatcmpl-"


class ChatCompletionBody(GenerationOptions, TemplateOptions, FormatOptions):
    """`metadata` comes back in a whole answer, as OpenAI's does."""

    UNSUPPORTED = {
        "functions": (),
        "function_call": ("none", "auto"),
        "audio": (),
        "modalities": (["text"],),
        "moderation": (),
        "prediction": (),
        "prompt_cache_options": (),
        "service_tier": ("auto", "default"),
        "verbosity": ("medium",),
        "web_search_options": (),
    }

    messages: Messages
    tools: ChatTools | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None  # says nothing without tools
    max_completion_tokens: MaxTokens = None
    reasoning_effort: Effort | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    metadata: Metadata | None = None
    store: bool | None = None

    @property
    def is_stored(self) -> bool:
        return bool(self.store)

    def to_request(self, defaults: SamplingParams, scope: str, label: str) -> ChatRequest:
        """Raises InvalidRequest."""
        sampling = self.sampling(
            defaults, self._max_tokens(), self._num_logprobs(), self.logit_bias
        )
        thinking = thinking_of(self.reasoning_effort, "reasoning_effort")
        messages, options = parse_messages(self.messages), self.prompt_options(thinking)
        tools = read_tools(self.tools)
        choice = read_choice(self.tool_choice, tools, self.parallel_tool_calls)
        if choice is not None:
            options = replace(options, tools=tools)
        request = self.build(messages, sampling, options, scope=scope, label=label)
        return replace(request, grammar=self.asked_grammar, tool_choice=choice or AUTO)

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


class ChatFormat(ChunkFormat):
    """The role comes with a choice's first chunk, the finish reason in a last one of its own."""

    kind = "chat.completion.chunk"

    def __init__(self, answer: Answer, metadata: dict[str, str] | None = None) -> None:
        super().__init__(answer)
        self._metadata = metadata
        self._is_plain = not (answer.logprobs or answer.return_token_ids)
        self._started = [False] * answer.n
        self._calls: list[list[str]] = [[] for _ in range(answer.n)]  # ids of those that began
        self._before = [self._split(index)[0] for index in range(answer.n)]
        self._after = self._split(0)[1]
        self._extras = answer.extras()

    def frames(self, delta: Delta) -> list[bytes]:
        index, _, text, _, _, reason, parts = delta
        is_text = self._is_plain and reason is None and not parts
        if is_text and self._started[index]:  # nearly always
            return [self._before[index] + orjson.dumps(text) + self._after] if text else []
        frames: list[bytes] = []
        if not self._started[index]:
            self._started[index] = True
            frames.append(self._first(index))
        if not self._is_plain and (text or parts or delta.token_ids):
            frames.append(self._detailed(delta))
        elif any(isinstance(part, Reasoning) for part in parts):
            frames.append(self._chunk(index, _said(delta)))
        elif text:
            frames.append(self._before[index] + orjson.dumps(text) + self._after)
        calls = (part for part in parts if isinstance(part, ToolCall))
        frames += [self._chunk(index, self._piece(index, call)) for call in calls]
        if reason is not None:
            frames.append(self._chunk(index, {}, finish=self._finish(index, reason)))
        return frames

    def _piece(self, index: int, call: ToolCall) -> dict[str, Any]:
        """What is new of a call."""
        known = self._calls[index]
        if known and known[-1] == call.id:
            piece = chat_piece(call)
        else:
            known.append(call.id)
            piece = chat_call(call)
        return {"tool_calls": [{"index": len(known) - 1, **piece}]}

    def _finish(self, index: int, reason: FinishReason) -> str:
        if self._calls[index] and reason is FinishReason.STOP:
            return "tool_calls"
        return FINISH_REASONS[reason]

    def completion(self, deltas: list[Delta], usage: Usage) -> dict[str, Any]:
        choices = [self._whole_choice(delta) for delta in deltas]
        return {
            **self._answer.head("chat.completion"),
            "choices": choices,
            "usage": usage_fields(usage),
            **({} if self._metadata is None else {"metadata": self._metadata}),
            **self._extras,
            **self._answer.of_prompt(0),
        }

    def _whole_choice(self, delta: Delta) -> dict[str, Any]:
        assert delta.finish_reason is not None
        calls = [part for part in delta.parts if isinstance(part, ToolCall)]
        self._calls[delta.choice] = [call.id for call in calls]
        message: dict[str, Any] = {"role": "assistant", **_said(delta), "refusal": None}
        if calls:
            message |= {"content": delta.text or None, "tool_calls": list(map(chat_call, calls))}
        choice: dict[str, Any] = {
            "index": delta.choice,
            "message": message,
            "logprobs": self._logprobs(delta),
            "finish_reason": self._finish(delta.choice, delta.finish_reason),
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
        return self._chunk(delta.choice, _said(delta), more=more)

    def _chunk(
        self,
        index: int,
        content: dict[str, Any],
        *,
        finish: str | None = None,
        more: dict[str, Any] | None = None,
        extras: dict[str, Any] | None = None,
    ) -> bytes:
        choice = {"index": index, "delta": content, "logprobs": None, "finish_reason": finish}
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


class StoredChatFormat(ChatFormat):
    """Frame n is the n-th event of the stream, `id: n` on the wire: those behind `after`, and the
    last once more where that is none."""

    def __init__(
        self, answer: Answer, metadata: dict[str, str] | None = None, *, after: int = START
    ) -> None:
        super().__init__(answer, metadata)
        self._seen = after
        self._next = 0
        self._last = START  # the number that was sent last
        self._final = b""  # the last frame so far, sent or not

    def frames(self, delta: Delta) -> list[bytes]:
        return self._number(super().frames(delta))

    def closing(self, generation: Generation) -> list[bytes]:
        *frames, done = super().closing(generation)
        numbered = self._number(frames)
        return [*([self._final] if self._last == START else numbered), done]

    def error(self, error: ChatError) -> bytes:
        return b"data: %b\n\n" % error_event(error, self._last)

    def _number(self, frames: list[bytes]) -> list[bytes]:
        first = max(self._seen + 1 - self._next, 0)
        numbered = [b"id: %d\n%b" % pair for pair in enumerate(frames[first:], self._next + first)]
        self._next += len(frames)
        if frames:
            self._final = b"id: %d\n%b" % (self._next - 1, frames[-1])
        if numbered:
            self._last = self._next - 1
        return numbered


class ChatEndpoint(Endpoint[ChatCompletionBody]):
    def parse(self, raw: dict[str, Any]) -> ChatCompletionBody:
        return validate(ChatCompletionBody, raw)

    async def plan(
        self, body: ChatCompletionBody, caller: Caller, defaults: SamplingParams
    ) -> tuple[ChatRequest, NewAnswer]:
        if body.is_stored and body.n not in (None, 1):
            raise InvalidRequest("n must be 1 with `store: true`.", param="n")
        if body.is_stored and body.prompt_logprobs is not None:
            raise InvalidRequest(
                "prompt_logprobs are not stored: leave out `store`.", param="prompt_logprobs"
            )
        id = PREFIX + uuid.uuid4().hex
        request = body.to_request(defaults, caller.scope, caller.label)
        shown = Shown.of(body, logprobs=bool(body.logprobs), metadata=body.metadata)
        new = NewAnswer(id, shown.to_json(), store=body.is_stored)
        if not body.is_stored:
            return request, new
        said = [new_item(m.role, m.parts) for m in parse_messages(body.messages)]
        new = replace(
            new,
            input_items=tuple(item._replace(id=f"{id}-{k}") for k, item in enumerate(said)),
            shows_prompt_ids=bool(body.return_token_ids),
            idempotency=caller.key,
            cache_retention=body.prompt_cache_retention,
        )
        return request, new

    def format(self, generation: Generation, after: int = START) -> Format:
        answer, metadata = Answer.of(generation), generation.details.wire["metadata"]
        if generation.is_stored:
            return StoredChatFormat(answer, metadata, after=after)
        return ChatFormat(answer, metadata)


def shown_of(record: Response) -> Shown:
    """What is kept of a stored chat's request."""
    return Shown(**record.request["wire"])


def completion_of(record: Response) -> dict[str, Any]:
    """A stored chat that has ended, as its record alone tells it."""
    assert record.result is not None
    usage = Usage(*record.result["usage"])
    shown = shown_of(record)
    dropped = record.request["num_dropped_turns"] if shown.shows_dropped_turns else None
    created = int(record.created_at)
    answer = Answer(record.id, created, shown.model, 1, ((),), num_dropped_turns=dropped)
    text, parts = result_of(record)
    delta = Delta(0, 0, text, (), finish_reason=REASONS_OF[record.status], parts=parts)
    warnings = record.result.get("warnings")
    said = {"warnings": warnings} if warnings else {}
    return ChatFormat(answer, shown.metadata).completion([delta], usage) | said


def _said(delta: Delta) -> dict[str, str]:
    """Reasoning under DeepSeek's name and vLLM's."""
    thought = "".join(part.text for part in delta.parts if isinstance(part, Reasoning))
    if not thought:
        return {"content": delta.text}
    text = {"content": delta.text} if delta.text or delta.finish_reason else {}
    return {**text, "reasoning_content": thought, "reasoning": thought}


def message_of(item: Item) -> dict[str, Any]:
    """A message of a stored chat's request."""
    parts = parts_of(item)
    shown: dict[str, Any] = {"id": item.id, "role": item.body["role"], "content": text_of(parts)}
    shown |= {"name": None, "refusal": None, "content_parts": None}
    for part in parts:
        if isinstance(part, ToolCall):
            shown.setdefault("tool_calls", []).append(chat_call(part))
        elif isinstance(part, ToolResult):
            shown |= {"tool_call_id": part.call_id, "content": part.text}
    return shown
