"""From a request's prompt to token ids that fit the model's context."""

import asyncio

from llamastream.chat import FittedPrompt, PromptBuilder, Tokenizer, fit_context
from llamastream.messages import ChatRequest, Prompt

# Encoding is about 1 µs a character; longer texts would hold up every stream's next token.
MAX_INLINE_CHARS = 4096


class Prompting:
    """Encodes prompts of any kind, long ones off the event loop."""

    def __init__(self, tokenizer: Tokenizer, prompts: PromptBuilder) -> None:
        self._tokenizer = tokenizer
        self._prompts = prompts

    async def fit(self, request: ChatRequest, max_model_len: int) -> FittedPrompt:
        """The prompt's ids. Raises InvalidRequest or ContextLengthExceeded."""
        if _num_chars(request.prompt) <= MAX_INLINE_CHARS:
            return self._fit(request, max_model_len)
        return await asyncio.to_thread(self._fit, request, max_model_len)

    def _fit(self, request: ChatRequest, max_model_len: int) -> FittedPrompt:
        prompt, max_tokens = request.prompt, request.sampling.max_tokens
        if isinstance(prompt, str):
            return FittedPrompt(tuple(self._tokenizer.encode_raw_prompt(prompt)), 0)
        if isinstance(prompt[0], int):
            return FittedPrompt(prompt, 0)
        return fit_context(prompt, self._prompts.build, max_model_len, max_tokens, request.truncation)


def _num_chars(prompt: Prompt) -> int:
    if isinstance(prompt, str):
        return len(prompt)
    return sum(len(part.content) for part in prompt if not isinstance(part, int))
