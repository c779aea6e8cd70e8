"""From a request's prompt to token ids that the model knows and that fit its context.

What cannot fit costs no more than what does: the tokenizer is told how much room there is.
"""

from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from llamastream.errors import InvalidRequest
from llamastream.generation.pool import FairPool
from llamastream.text import (
    DoesNotFit,
    FittedPrompt,
    PromptBuilder,
    Tokenizer,
    check_prompt,
    check_room,
    fit_context,
    prompt_room,
    reasoning_start,
    too_long,
)
from llamastream.tools import ToolFormat
from llamastream.types import (
    PLAIN_PROMPT,
    ChatRequest,
    EngineStatus,
    Message,
    Prompt,
    PromptOptions,
    ReasoningStart,
)

# Characters or ids. They cost some microseconds each: more would hold up all streams.
MAX_INLINE = 1024
MESSAGE_SIZE = 64  # what a message costs beside its text, in characters
# How many tokens of a text are counted, or cut off, beyond what fits the context.
MAX_CONTEXTS, MAX_COUNTED = 16, 1 << 18
Result = TypeVar("Result")


class Prompting:
    """Encodes prompts of any kind, long ones off the event loop and key by key.

    Everything here raises InvalidRequest, ContextLengthExceeded, and Overloaded when too many long
    ones wait.
    """

    def __init__(self, tokenizer: Tokenizer, prompts: PromptBuilder) -> None:
        self._tokenizer = tokenizer
        self._prompts = prompts
        self._pool = FairPool("prompts")

    def close(self) -> None:
        self._pool.close()

    @property
    def tool_format(self) -> ToolFormat:
        """How the model writes calls."""
        return self._prompts.tool_format

    def reasoning(self, request: ChatRequest, prompt_ids: Sequence[int]) -> ReasoningStart | None:
        """Where an answer to this prompt begins, if it is a chat's and the model may reason."""
        messages = _messages(request.prompt)
        if not (messages and self._prompts.reasons):
            return None
        continued = messages[-1] if request.prompt_options.continues else None
        return reasoning_start(self._tokenizer, prompt_ids, continued)

    async def fit(self, request: ChatRequest, limits: EngineStatus) -> FittedPrompt:
        """The prompt's ids."""
        sampling, vocab_size = request.sampling, limits.vocab_size
        _check_ids("stop_token_ids", sampling.stop_token_ids, vocab_size)
        _check_ids("allowed_token_ids", sampling.allowed_token_ids or (), vocab_size)
        _check_ids("logit_bias", [token_id for token_id, _ in sampling.logit_bias], vocab_size)
        size = _size(request.prompt, request.prompt_options)
        return await self._run(request.scope, size, lambda: self._fit(request, limits))

    async def encode(
        self, text: str, limits: EngineStatus, *, add_special: bool, parse_special: bool, scope: str
    ) -> list[int]:
        """Ids of a text: with the BOS that the model wants, with control tokens recognised."""

        def encode() -> list[int]:
            tokenizer = self._tokenizer
            self._check_room(text, _most_counted(limits.max_model_len))
            if not parse_special:
                return tokenizer.encode(text, add_bos=None if add_special else False)
            if add_special:
                return tokenizer.encode_raw_prompt(text)
            return tokenizer.encode_segments(tokenizer.split_special(text))

        return await self._run(scope, len(text), encode)

    async def decode(
        self, ids: list[int], limits: EngineStatus, *, skip_special: bool, scope: str
    ) -> str:
        """The text of ids, of as many as fit the context."""
        if len(ids) > limits.max_model_len:
            raise InvalidRequest(
                f"tokens must hold <= {limits.max_model_len} ids, the model's context. "
                f"Given: {len(ids)}.",
                param="tokens",
            )
        _check_ids("tokens", ids, limits.vocab_size)

        def decode() -> str:
            return self._tokenizer.decode(ids, skip_special_tokens=skip_special)

        return await self._run(scope, len(ids), decode)

    async def apply_template(
        self,
        messages: tuple[Message, ...],
        options: PromptOptions,
        limits: EngineStatus,
        *,
        scope: str,
    ) -> tuple[str, list[int]]:
        """A conversation's prompt, as text and as ids."""

        def apply() -> tuple[str, list[int]]:
            ids = self._build(messages, options, _most_counted(limits.max_model_len), None)
            return self._prompts.render(messages, options), ids

        return await self._run(scope, _size(messages, options), apply)

    def tokenizer_facts(self) -> dict[str, str | bool | None]:
        """Named as in Hugging Face's tokenizer_config.json."""
        tokenizer = self._tokenizer
        ids = {
            "bos_token": tokenizer.bos_token_id,
            "eos_token": next(iter(tokenizer.eos_token_ids), None),
        }
        texts = {k: None if i is None else tokenizer.token_text(i) for k, i in ids.items()}
        return {**texts, "pad_token": None, "chat_template": self._prompts.template}

    async def token_texts(self, ids: list[int], *, scope: str) -> list[str]:
        """The text of each token alone, for people."""
        return await self._run(scope, len(ids), lambda: list(map(self._tokenizer.token_text, ids)))

    def _fit(self, request: ChatRequest, limits: EngineStatus) -> FittedPrompt:
        max_tokens, max_model_len = request.sampling.max_tokens, limits.max_model_len
        if request.cuts_max_tokens and max_tokens:
            max_tokens = None
        messages = _messages(request.prompt)
        if messages and request.max_prompt_tokens is None:
            return fit_context(
                self._prompts,
                self._tokenizer,
                messages,
                truncation=request.truncation,
                max_tokens=max_tokens,
                max_model_len=max_model_len,
                options=request.prompt_options,
            )
        ids = self._ids(request, max_model_len)
        check_prompt(len(ids), max_tokens=max_tokens, max_model_len=max_model_len, param="prompt")
        _check_ids("prompt", ids, limits.vocab_size)
        if not ids:
            raise InvalidRequest("prompt must hold at least 1 token. Given: 0.", param="prompt")
        return FittedPrompt(ids, 0)

    def _ids(self, request: ChatRequest, max_model_len: int) -> list[int]:
        """The prompt's, or as many of the last of them as are asked for."""
        max_tokens, most, prompt = (
            request.sampling.max_tokens,
            request.max_prompt_tokens,
            request.prompt,
        )
        room = max_model_len if most is None else _most_counted(max_model_len)
        if messages := _messages(prompt):
            ids = self._build(messages, request.prompt_options, room, max_tokens)
        elif isinstance(prompt, str):
            self._check_room(prompt, room, max_tokens)
            ids = self._tokenizer.encode_raw_prompt(prompt)
        else:
            ids = [part for part in prompt if isinstance(part, int)]
        if most is None:
            return ids
        return ids[-(most if most > 0 else prompt_room(max_tokens, max_model_len)) :]

    def _build(
        self,
        messages: tuple[Message, ...],
        options: PromptOptions,
        room: int,
        max_tokens: int | None,
    ) -> list[int]:
        try:
            return self._prompts.build(messages, options, room)
        except DoesNotFit as error:
            raise too_long(error, max_tokens, room, param="messages") from None

    def _check_room(self, text: str, room: int, max_tokens: int | None = None) -> None:
        try:
            check_room(self._tokenizer, text, room)
        except DoesNotFit as error:
            raise too_long(error, max_tokens, room, param="prompt") from None

    async def _run(self, scope: str, size: int, work: Callable[[], Result]) -> Result:
        """Do `work`, off the event loop if its input is long."""
        return work() if size <= MAX_INLINE else await self._pool.run(scope, work)


def _most_counted(max_model_len: int) -> int:
    return max(max_model_len, min(MAX_CONTEXTS * max_model_len, MAX_COUNTED))


def _messages(prompt: Prompt) -> tuple[Message, ...]:
    """Those of a conversation; none of any other prompt."""
    return () if isinstance(prompt, str) else tuple(m for m in prompt if isinstance(m, Message))


def _size(prompt: Prompt, options: PromptOptions = PLAIN_PROMPT) -> int:
    """What a prompt costs to read, in characters."""
    messages = _messages(prompt)
    if not messages:
        return len(prompt)
    variables = MAX_INLINE if options.variables or options.tools else 0  # whatever is in them
    return variables + sum(m.size + MESSAGE_SIZE for m in messages)


def _check_ids(name: str, ids: Collection[int], vocab_size: int) -> None:
    if ids and not (0 <= min(ids) and max(ids) < vocab_size):
        wrong = min(ids) if min(ids) < 0 else max(ids)
        raise InvalidRequest(
            f"{name} must hold token ids >= 0 and < {vocab_size}. Given: {wrong}.", param=name
        )
