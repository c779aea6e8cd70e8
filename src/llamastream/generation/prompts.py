"""From a request's prompt to token ids that the model knows and that fit its context."""

import asyncio
from collections.abc import Callable, Collection
from typing import TypeVar

from llamastream.errors import InvalidRequest
from llamastream.text import (
    FittedPrompt,
    PromptBuilder,
    Tokenizer,
    check_prompt,
    fit_context,
    prompt_room,
)
from llamastream.types import (
    PLAIN_PROMPT,
    ChatRequest,
    EngineStatus,
    Message,
    Prompt,
    PromptOptions,
)

# Characters or ids. They cost about a microsecond each: more would hold up all streams.
MAX_INLINE = 4096
Result = TypeVar("Result")


class Prompting:
    """Encodes prompts of any kind, long ones off the event loop."""

    def __init__(self, tokenizer: Tokenizer, prompts: PromptBuilder) -> None:
        self._tokenizer = tokenizer
        self._prompts = prompts

    async def fit(self, request: ChatRequest, limits: EngineStatus) -> FittedPrompt:
        """The prompt's ids. Raises InvalidRequest or ContextLengthExceeded."""
        sampling, vocab_size = request.sampling, limits.vocab_size
        _check_ids("stop_token_ids", sampling.stop_token_ids, vocab_size)
        _check_ids("logit_bias", [token_id for token_id, _ in sampling.logit_bias], vocab_size)
        return await _run(lambda: self._fit(request, limits), _num_chars(request.prompt))

    async def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Ids of a text: with the BOS that the model wants, with control tokens recognised."""

        def encode() -> list[int]:
            tokenizer = self._tokenizer
            if not parse_special:
                return tokenizer.encode(text, add_bos=None if add_special else False)
            if add_special:
                return tokenizer.encode_raw_prompt(text)
            return tokenizer.encode_segments(tokenizer.split_special(text))

        return await _run(encode, len(text))

    async def decode(self, ids: list[int], vocab_size: int, *, skip_special: bool) -> str:
        """The text of ids. Raises InvalidRequest for ids that the model does not know."""
        _check_ids("tokens", ids, vocab_size)

        def decode() -> str:
            return self._tokenizer.decode(ids, skip_special_tokens=skip_special)

        return await _run(decode, len(ids))

    async def apply_template(
        self, messages: tuple[Message, ...], options: PromptOptions = PLAIN_PROMPT
    ) -> tuple[str, list[int]]:
        """A conversation's prompt, as text and as ids. Raises InvalidRequest."""

        def apply() -> tuple[str, list[int]]:
            return self._prompts.render(messages, options), self._prompts.build(messages, options)

        return await _run(apply, _num_chars(messages))

    def tokenizer_facts(self) -> dict[str, str | bool | None]:
        """Named as in Hugging Face's tokenizer_config.json."""
        tokenizer = self._tokenizer
        ids = {
            "bos_token": tokenizer.bos_token_id,
            "eos_token": next(iter(tokenizer.eos_token_ids), None),
        }
        texts = {k: None if i is None else tokenizer.token_text(i) for k, i in ids.items()}
        return {**texts, "pad_token": None, "chat_template": self._prompts.template}

    def token_texts(self, ids: list[int]) -> list[str]:
        """The text of each token alone, for people."""
        return [self._tokenizer.token_text(token_id) for token_id in ids]

    def _fit(self, request: ChatRequest, limits: EngineStatus) -> FittedPrompt:
        max_tokens, max_model_len = request.sampling.max_tokens, limits.max_model_len
        options, most = request.prompt_options, request.max_prompt_tokens
        messages, ids = self._messages_or_ids(request.prompt, limits.vocab_size)
        if messages is not None and most is None:
            return fit_context(
                self._prompts,
                self._tokenizer,
                messages,
                truncation=request.truncation,
                max_tokens=max_tokens,
                max_model_len=max_model_len,
                options=options,
            )
        if messages is not None:
            ids = self._prompts.build(messages, options)
        if most is not None:
            ids = ids[-(most if most > 0 else prompt_room(max_tokens, max_model_len)) :]
        check_prompt(len(ids), max_tokens=max_tokens, max_model_len=max_model_len, param="prompt")
        return FittedPrompt(ids, 0)

    def _messages_or_ids(
        self, prompt: Prompt, vocab_size: int
    ) -> tuple[tuple[Message, ...] | None, list[int]]:
        if isinstance(prompt, str):
            ids = self._tokenizer.encode_raw_prompt(prompt)
        elif messages := tuple(part for part in prompt if isinstance(part, Message)):
            return messages, []
        else:
            ids = [part for part in prompt if isinstance(part, int)]
            _check_ids("prompt", ids, vocab_size)
        if not ids:
            raise InvalidRequest("prompt must hold at least 1 token. Given: 0.", param="prompt")
        return None, ids


async def _run(work: Callable[[], Result], size: int) -> Result:
    """Do `work`, off the event loop if its input is long."""
    return work() if size <= MAX_INLINE else await asyncio.to_thread(work)


def _num_chars(prompt: Prompt) -> int:
    if isinstance(prompt, str):
        return len(prompt)
    return sum(len(part.content) for part in prompt if isinstance(part, Message))


def _check_ids(name: str, ids: Collection[int], vocab_size: int) -> None:
    if ids and not (0 <= min(ids) and max(ids) < vocab_size):
        wrong = min(ids) if min(ids) < 0 else max(ids)
        raise InvalidRequest(
            f"{name} must hold token ids >= 0 and < {vocab_size}. Given: {wrong}.", param=name
        )
