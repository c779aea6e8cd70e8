"""The body of POST /v1/responses, checked and turned into what the service takes."""

import secrets
import uuid
from dataclasses import asdict, replace
from typing import Annotated, Any, Literal

from pydantic import Field

from llamastream.api.http.errors import check_id
from llamastream.api.wire.format import START, Caller, Endpoint
from llamastream.api.wire.grammars import GuidedOptions, TextFormat
from llamastream.api.wire.messages import Input, parse_input
from llamastream.api.wire.options import (
    LOGPROBS,
    Effort,
    Includable,
    MaxTokens,
    Metadata,
    SamplingOptions,
    WireModel,
    thinking_of,
    validate,
)
from llamastream.api.wire.response_events import ResponseFormat, ResponseShown, Snapshot
from llamastream.api.wire.summaries import COMPACTION, summary_message
from llamastream.api.wire.tools import ResponseTools, check_tool_kinds, read_choice, read_tools
from llamastream.api.wire.turns import Turns
from llamastream.errors import InvalidRequest, ItemNotFound, NotFound, PreviousResponseNotFound
from llamastream.generation import Continued, Generation, History, NewAnswer, StoredAnswers
from llamastream.generation.items import join_messages, response_of, to_messages
from llamastream.records import Item
from llamastream.sampling import MAX_LOGPROBS, SamplingParams
from llamastream.tools import AUTO
from llamastream.types import ChatRequest, Message, PromptOptions, Thinking

PREFIX = "resp_"
MAX_INSTRUCTIONS_CHARS = 2**20
MAX_REFERENCES = 256  # in one input: each is looked up
SEED_BITS = 53  # of a seed that is drawn: every reader of JSON takes it for what it is


class TextOptions(WireModel):
    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None


class ConversationReference(WireModel):
    id: str
    after: str | None = None  # an item of it to go on from, or "root"


class ItemReference(WireModel):
    type: Literal["item_reference"]
    id: str


class ReasoningOptions(WireModel):
    """Nothing is summed up: what was thought is there as it is, which `auto` leaves to us."""

    effort: Effort | None = None
    summary: Literal["auto"] | None = None


class ResponseStreamOptions(WireModel):
    include_obfuscation: Literal[False] | None = None


class ResponseBody(SamplingOptions, GuidedOptions):
    UNSUPPORTED = {
        "max_tool_calls": (),
        "access_programs": (),
        "background_options": (),
        "context_management": (),
        "image": (),
        "moderation": (),
        "prompt": (),
        "prompt_cache_options": (),
        "service_tier": ("auto", "default"),
    }

    input: Input = None
    instructions: Annotated[str, Field(max_length=MAX_INSTRUCTIONS_CHARS)] | None = None
    previous_response_id: str | None = None
    conversation: str | ConversationReference | None = None
    store: bool | None = None
    background: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    metadata: Metadata | None = None
    client_metadata: dict[str, str] | None = None  # labels of Codex, without any effect
    max_output_tokens: MaxTokens = None
    truncation: Literal["disabled", "auto"] | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    include: list[Includable] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    tools: ResponseTools | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None

    @property
    def conversation_id(self) -> str | None:
        given = self.conversation
        return given.id if isinstance(given, ConversationReference) else given

    @property
    def after(self) -> str | None:
        given = self.conversation
        return given.after if isinstance(given, ConversationReference) else None

    @property
    def text_format(self) -> TextFormat | None:
        return None if self.text is None else self.text.format

    @property
    def wants_logprobs(self) -> bool:
        return LOGPROBS in (self.include or [])

    @property
    def is_stored(self) -> bool:
        return self.store is not False

    def to_request(
        self, messages: tuple[Message, ...], defaults: SamplingParams, scope: str, label: str
    ) -> ChatRequest:
        """`messages` are those before the model's answer, `defaults` the model's own.

        Raises InvalidRequest.
        """
        logprobs = (self.top_logprobs or 0) if self.wants_logprobs else None
        if self.instructions is not None:
            messages = (Message("system", self.instructions), *messages)
        tools = read_tools(self.tools)
        choice = read_choice(self.tool_choice, tools, self.parallel_tool_calls)
        return ChatRequest(
            prompt=messages,
            sampling=self.sampling(defaults, self.max_output_tokens, logprobs),
            ignore_eos=bool(self.ignore_eos),
            prompt_options=PromptOptions(
                thinking=self._thinking(), tools=() if choice is None else tools
            ),
            truncation=self.truncation or "disabled",
            grammar=self.grammar(None if self.text_format is None else self.text_format.spec()),
            tool_choice=choice or AUTO,
            scope=scope,
            label=label,
        )

    def _thinking(self) -> Thinking | None:
        given = self.reasoning
        return None if given is None else thinking_of(given.effort, "reasoning.effort")

    def shown(self, sampling: SamplingParams) -> ResponseShown:
        return ResponseShown(
            model=self.model,
            instructions=self.instructions,
            background=bool(self.background),
            store=self.is_stored,
            metadata=self.metadata or {},
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            max_output_tokens=self.max_output_tokens,
            top_logprobs=self.top_logprobs or 0,
            truncation=self.truncation or "disabled",
            user=self.user,
            safety_identifier=self.safety_identifier,
            prompt_cache_key=self.prompt_cache_key,
            prompt_cache_retention=self.prompt_cache_retention,
            seed=sampling.seed,
            logprobs=self.wants_logprobs,
            return_token_ids=bool(self.return_token_ids),
            text_format=None if self.text_format is None else self.text_format.shown(),
            tools=tuple(tool.shown() for tool in self.tools or ()),
            tool_choice=self.tool_choice or "auto",
            parallel_tool_calls=self.parallel_tool_calls is not False,
        )


def parse_response(body: dict[str, Any]) -> ResponseBody:
    """Raises InvalidRequest."""
    check_tool_kinds(body.get("tools"))
    parsed = validate(ResponseBody, body)
    if parsed.conversation is not None and parsed.previous_response_id is not None:
        raise InvalidRequest(
            "conversation and previous_response_id cannot both be given: send one of them.",
            param="previous_response_id",
        )
    if parsed.top_logprobs and not parsed.wants_logprobs:
        raise InvalidRequest(f"top_logprobs needs include: [{LOGPROBS!r}].", param="top_logprobs")
    if not parsed.is_stored:
        for name in ("background", "conversation"):
            if getattr(parsed, name):
                raise InvalidRequest(f"{name} needs `store: true`.", param=name)
    return parsed


class ResponseEndpoint(Endpoint[ResponseBody]):
    shows_unfinished = True

    def __init__(self, stored: StoredAnswers, turns: Turns | None = None) -> None:
        """`turns` are those of the connection that asks, where they outlive a request."""
        self._stored = stored
        self._turns = turns

    def parse(self, raw: dict[str, Any]) -> ResponseBody:
        return parse_response(raw)

    async def plan(
        self, body: ResponseBody, caller: Caller, defaults: SamplingParams
    ) -> tuple[ChatRequest, NewAnswer]:
        items = await self._items(body, caller)
        if items and body.after is not None:
            items = (items[0]._replace(follows=body.after), *items[1:])
        history = await self._history(body, caller)
        messages = join_messages(history.messages, to_messages(items))
        request = body.to_request(messages, defaults, caller.scope, caller.label)
        sampling = request.sampling
        if sampling.seed is None:  # drawn here, so that the answer can say how to get it again
            sampling = replace(sampling, seed=secrets.randbits(SEED_BITS))
        num_unread = history.num_unread_turns
        request = replace(request, sampling=sampling, num_unread_turns=num_unread)
        new = NewAnswer(
            id=f"{PREFIX}{uuid.uuid4().hex}",
            wire=asdict(body.shown(request.sampling)),
            store=body.is_stored,
            input_items=items,
            conversation_id=body.conversation_id,
            after=body.after,
            previous_response_id=body.previous_response_id,
            background=bool(body.background),
            idempotency=caller.key,
            cache_retention=body.prompt_cache_retention,
        )
        if self._turns is not None and not body.is_stored:
            self._turns.begin(new.id, messages)
        return request, new

    def format(self, generation: Generation, after: int = START) -> ResponseFormat:
        return ResponseFormat(generation, after=after)

    async def _items(self, body: ResponseBody, caller: Caller) -> tuple[Item, ...]:
        """Those of `input`, and what it refers to."""
        if body.input is None and not (body.conversation_id or body.previous_response_id):
            raise InvalidRequest("input is required.", param="input")
        if body.input is None:
            return ()
        given = body.input
        if isinstance(given, list):
            num_references = sum(map(_is_reference, given))
            if num_references > MAX_REFERENCES:
                raise InvalidRequest(
                    f"input must hold <= {MAX_REFERENCES} item_reference. Given: {num_references}.",
                    param="input",
                )
            given = [await self._known(item, f"input[{k}]", caller) for k, item in enumerate(given)]
        return parse_input(given)

    async def _known(self, item: Any, where: str, caller: Caller) -> Any:
        """An item, or the message that it stands for."""
        if isinstance(item, dict) and item.get("type") == COMPACTION:
            return summary_message(item, where)
        if not _is_reference(item):
            return item
        reference = validate(ItemReference, item)
        try:
            id = PREFIX + response_of(reference.id)
            found = await self._stored.find(id, scope=caller.scope)
        except NotFound:
            raise ItemNotFound(reference.id, where) from None
        if found.end is None or found.end.error is not None:
            raise ItemNotFound(reference.id, where)
        for item in Snapshot.of(found).output():
            if item["id"] == reference.id:
                return item
        raise ItemNotFound(reference.id, where)

    async def _history(self, body: ResponseBody, caller: Caller) -> History:
        previous = body.previous_response_id
        said = None if previous is None or self._turns is None else self._turns.find(previous)
        if said is not None and not body.is_stored:
            return History(said, 0)
        continued = Continued(
            body.conversation_id,
            body.previous_response_id,
            body.truncation or "disabled",
            body.max_output_tokens,
            body.after,
        )
        try:
            if previous is not None:
                check_id(previous, PREFIX)
            return await self._stored.history(continued, scope=caller.scope)
        except NotFound as error:  # names its own id, not the field of the body that gave it
            if previous is not None:
                raise PreviousResponseNotFound(previous) from None
            if error.param != "conversation.after":
                error.param = "conversation"
            raise


def _is_reference(item: Any) -> bool:
    return isinstance(item, dict) and item.get("type") == "item_reference"
