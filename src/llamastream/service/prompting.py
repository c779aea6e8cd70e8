"""From a request's prompt to token ids that the model knows and that fit its context."""

import asyncio
from collections.abc import Collection

from llamastream.chat import FittedPrompt, PromptBuilder, Tokenizer, check_prompt, fit_context
from llamastream.errors import ContextLengthExceeded, InvalidRequest
from llamastream.messages import ChatRequest, EngineStatus, Message, Prompt

# Encoding costs about a microsecond per character: longer texts would hold up all streams.
MAX_INLINE_CHARS = 4096


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
        if _num_chars(request.prompt) <= MAX_INLINE_CHARS:
            return self._fit(request, limits)
        return await asyncio.to_thread(self._fit, request, limits)

    def _fit(self, request: ChatRequest, limits: EngineStatus) -> FittedPrompt:
        max_tokens, max_model_len = request.sampling.max_tokens, limits.max_model_len
        messages, ids = self._messages_or_ids(request.prompt, limits.vocab_size)
        if messages is not None:
            return fit_context(
                self._prompts,
                self._tokenizer,
                messages,
                truncation=request.truncation,
                max_tokens=max_tokens,
                max_model_len=max_model_len,
            )
        try:
            check_prompt(len(ids), max_tokens=max_tokens, max_model_len=max_model_len)
        except ContextLengthExceeded as error:
            raise ContextLengthExceeded(error.message, param="prompt") from None
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
