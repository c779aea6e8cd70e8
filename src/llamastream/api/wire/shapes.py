"""What answers look like, for the OpenAPI document; requests look as the models that check them.

Only what is always there and what clients rely on: more may come.
"""

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict


class ErrorFields(TypedDict):
    message: str
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    param: str | None
    code: str | None


class Error(TypedDict):
    error: ErrorFields


class Page(TypedDict):
    object: Literal["list"]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Deleted(TypedDict):
    id: str
    object: str
    deleted: Literal[True]


class Usage(TypedDict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int]


FinishReason = Literal["stop", "length", "tool_calls"]


class Compaction(TypedDict):
    id: str
    object: Literal["response.compaction"]
    created_at: int
    output: list[dict[str, Any]]
    usage: dict[str, Any]


class InputTokens(TypedDict):
    object: Literal["response.input_tokens"]
    input_tokens: int


class ChatMessage(TypedDict):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: NotRequired[list[dict[str, Any]]]


class ChatChoice(TypedDict):
    index: int
    message: ChatMessage
    logprobs: dict[str, Any] | None
    finish_reason: FinishReason
    token_ids: NotRequired[list[int]]


class ChatCompletion(TypedDict):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    metadata: NotRequired[dict[str, str] | None]
    prompt_token_ids: NotRequired[list[int]]
    num_dropped_turns: NotRequired[int]


class CompletionChoice(TypedDict):
    index: int
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: FinishReason
    token_ids: NotRequired[list[int]]


class Completion(TypedDict):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    prompt_token_ids: NotRequired[list[int] | list[list[int]]]


class StoredChatMessage(TypedDict):
    id: str
    role: Literal["system", "user", "assistant", "tool"]
    content: str
    name: str | None
    tool_calls: NotRequired[list[dict[str, Any]]]
    tool_call_id: NotRequired[str]


class ItemMessage(TypedDict):
    type: Literal["message"]
    id: str
    status: str
    role: Literal["system", "user", "assistant"]
    content: list[dict[str, Any]]
    after: NotRequired[str]


class Response(TypedDict):
    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["in_progress", "completed", "incomplete", "failed", "cancelled"]
    error: dict[str, str] | None
    incomplete_details: dict[str, str] | None
    conversation: dict[str, str] | None
    previous_response_id: str | None
    model: str
    output: list[dict[str, Any]]
    usage: dict[str, Any] | None
    metadata: dict[str, str]
    store: bool
    background: bool


class Conversation(TypedDict):
    id: str
    object: Literal["conversation"]
    created_at: int
    metadata: dict[str, str]


class Preset(TypedDict):
    id: str
    object: Literal["preset"]
    created_at: int
    name: str
    settings: dict[str, Any]


class Model(TypedDict):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int | None
    sampling: dict[str, float]
    details: dict[str, str | int | None]


class Models(TypedDict):
    object: Literal["list"]
    data: list[Model]


class Health(TypedDict):
    status: str
    running: int
    waiting: int
    store: NotRequired[Literal["ready", "unavailable"]]


class Version(TypedDict):
    version: str


class Tokens(TypedDict):
    tokens: list[int]
    count: int
    max_model_len: int
    token_strs: NotRequired[list[str]]


class Text(TypedDict):
    prompt: str


class Prompt(TypedDict):
    prompt: str
    tokens: list[int]
    count: int


class TokenizerInfo(TypedDict):
    bos_token: str | None
    eos_token: str | None
    pad_token: None
    chat_template: str | None
    vocab_size: int
    model_max_length: int


class DryRun(TypedDict):
    code: int
    description: str
    exception: None


class AnthropicErrorFields(TypedDict):
    type: str
    message: str


class AnthropicError(TypedDict):
    type: Literal["error"]
    error: AnthropicErrorFields
    request_id: str | None


class AnthropicUsage(TypedDict):
    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int


class AnthropicMessage(TypedDict):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: Literal[
        "end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"
    ]
    stop_sequence: str | None
    usage: AnthropicUsage


class CountedTokens(TypedDict):
    input_tokens: int


class ChatCompletionList(Page):
    data: list[ChatCompletion]


class ChatMessageList(Page):
    data: list[StoredChatMessage]


class ItemList(Page):
    data: list[ItemMessage]


class ConversationList(Page):
    data: list[Conversation]


class PresetList(Page):
    data: list[Preset]


class Found(TypedDict):
    object: Literal["search_result"]
    conversation: Conversation
    item: ItemMessage | None


class FoundList(TypedDict):
    object: Literal["list"]
    data: list[Found]


class ReceiptPrompt(TypedDict):
    num_tokens: int | None
    sha256: str | None


class ReceiptGrammar(TypedDict):
    kind: str
    sha256: str
    version: str


class ReceiptChoice(TypedDict):
    index: int
    num_tokens: int
    sha256: str


class Receipt(TypedDict):
    object: Literal["receipt"]
    id: str
    status: str
    weights: str
    precision: str
    arithmetic: str
    prompt: ReceiptPrompt
    sampling: dict[str, Any]
    stop: list[str]
    grammar: ReceiptGrammar | None
    choices: list[ReceiptChoice]


class Difference(TypedDict):
    choice: int
    position: int
    recorded: int | None
    drawn: int | None


class Verification(TypedDict):
    object: Literal["verification"]
    id: str
    is_equal: bool
    num_equal_tokens: int
    difference: Difference | None
    receipt: Receipt
