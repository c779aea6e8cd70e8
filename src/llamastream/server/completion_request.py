"""The body of POST /v1/completions, checked and turned into a ChatRequest."""

from typing import Annotated, Any

from pydantic import Field

from llamastream.errors import InvalidRequest
from llamastream.messages import ChatRequest
from llamastream.sampling import MAX_LOGPROBS, SamplingParams
from llamastream.server import unsupported
from llamastream.server.options import GenerationOptions, validate

DEFAULT_MAX_TOKENS = 16  # OpenAI's, for this endpoint only


class CompletionBody(GenerationOptions):
    """`prompt` is a text or a list of token ids; a list with one of either is taken as that."""

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
        return self.build(_prompt(self.prompt), sampling, scope=scope, label=label)


def parse_completion(body: dict[str, Any]) -> CompletionBody:
    """Raises InvalidRequest."""
    return validate(CompletionBody, unsupported.without_defaults(body, unsupported.COMPLETIONS))


def _prompt(value: Any) -> str | tuple[int, ...]:
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str | list):
        value = value[0]
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(type(token_id) is int for token_id in value):
        return tuple(value)
    if isinstance(value, list) and len(value) > 1 and isinstance(value[0], str | list):
        raise InvalidRequest(
            f"prompt must hold one prompt. Given: {len(value)}. Send one request for each.",
            param="prompt",
        )
    raise InvalidRequest("prompt must be a string or a list of token ids.", param="prompt")
