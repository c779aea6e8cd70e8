"""The body of POST /v1/completions, checked and turned into a ChatRequest."""

from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from llamastream.errors import InvalidRequest
from llamastream.messages import ChatRequest
from llamastream.sampling import MAX_LOGPROBS, SamplingParams
from llamastream.server import unsupported
from llamastream.server.options import MAX_CHOICES, GenerationOptions, validate

DEFAULT_MAX_TOKENS = 16  # OpenAI's, for this endpoint only


class CompletionBody(GenerationOptions):
    """`prompt` is a text, a list of token ids, or a list of such prompts."""

    prompt: Any
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    def to_request(self, defaults: SamplingParams, scope: str, label: str) -> ChatRequest:
        """Raises InvalidRequest."""
        if self.truncation == "auto":
            raise InvalidRequest(
                "truncation: auto drops turns of a chat; a text prompt has none. Leave it out.",
                param="truncation",
            )
        max_tokens = self.max_tokens or DEFAULT_MAX_TOKENS
        sampling = self.sampling(defaults, max_tokens, self.logprobs, self.logit_bias)
        first, *more = _prompts(self.prompt, MAX_CHOICES // (self.n or 1))
        request = self.build(first, sampling, scope=scope, label=label)
        return replace(request, more_prompts=tuple(more))


def parse_completion(body: dict[str, Any]) -> CompletionBody:
    """Raises InvalidRequest."""
    return validate(CompletionBody, unsupported.without_defaults(body, unsupported.COMPLETIONS))


def _prompts(value: Any, maximum: int) -> tuple[str | tuple[int, ...], ...]:
    if not (isinstance(value, list) and value and isinstance(value[0], str | list)):
        return (_prompt(value),)
    if len(value) > maximum:
        raise InvalidRequest(
            f"prompt must hold <= {maximum} prompts: {MAX_CHOICES} choices in all. "
            f"Given: {len(value)}.",
            param="prompt",
        )
    return tuple(map(_prompt, value))


def _prompt(value: Any) -> str | tuple[int, ...]:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(type(token_id) is int for token_id in value):
        return tuple(value)
    raise InvalidRequest(
        "prompt must be a string, a list of token ids, or a list of such prompts.", param="prompt"
    )
