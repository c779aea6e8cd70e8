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


def _num_chars(prompt: Prompt) -> int:
    if isinstance(prompt, str):
        return len(prompt)
    return sum(len(part.content) for part in prompt if not isinstance(part, int))
