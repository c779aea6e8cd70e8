"""The article's two documents, for clients that speak DocArray and for our Jina Executor.

A client may as well declare its own with the article's two fields only: what is absent has its
default, and what is unknown is ignored, on both sides. The server does not import this module:
docarray alone would add a fifth of a second to its start.
"""

import warnings
from typing import Dict, List, Optional, Self  # noqa: UP035

from pydantic import model_validator

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # docarray 0.41.0 uses what pydantic has deprecated since
    from docarray import BaseDoc

__all__ = ["ModelOutputDocument", "PromptDocument"]

# NOTE: typing's Optional, List and Dict on purpose: docarray knows no `X | None`, no `list[X]`.
# ruff: noqa: UP006, UP045


class PromptDocument(BaseDoc):
    """What to continue: a raw `prompt`, or the `messages` of a chat, each a role and a content.

    The server wants `max_tokens`; an Executor has a default. Over gRPC an integer has 32 bits, so
    `seed`, too. `truncation`: "auto" drops the oldest turns of a conversation that is too long.
    `logprobs` asks for the output's `logprob`. The answer is JSON that fits `json_schema`, a JSON
    schema as text. It may call `tools`, a list as OpenAI's chats take it, as JSON text. What the
    assistant said may have `tool_calls`, as text, too, and a message with the role `tool` is the
    result for its `tool_call_id`. `api_key` is for the stock jina.Client, which can
    send no header over gRPC. `store` keeps the answer: `stream_id`, which is on each of
    its documents, resumes it behind `starting_after`, the last sequence number that was seen, and
    needs no prompt.
    """

    prompt: Optional[str] = None
    max_tokens: Optional[int] = None
    messages: Optional[List[Dict[str, str]]] = None
    temperature: Optional[float] = None
    top_p: Optional[float] = None
    top_k: Optional[int] = None
    min_p: Optional[float] = None
    repetition_penalty: Optional[float] = None
    presence_penalty: Optional[float] = None
    frequency_penalty: Optional[float] = None
    seed: Optional[int] = None
    stop: Optional[List[str]] = None
    ignore_eos: Optional[bool] = None
    truncation: Optional[str] = None
    logprobs: Optional[bool] = None
    json_schema: Optional[str] = None
    tools: Optional[str] = None
    api_key: Optional[str] = None
    store: Optional[bool] = None
    stream_id: Optional[str] = None
    starting_after: Optional[int] = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if self.stream_id is None and (self.prompt is None) == (self.messages is None):
            raise ValueError("give prompt or messages, and not both")
        return self


class ModelOutputDocument(BaseDoc):
    """One token's share of the answer. `generated_text` concatenated is the exact whole text.

    A token that completes no character brings no document, and a reader far behind gets several
    tokens in one: `token_id` is then the last. `finish_reason` is on the last document if the end
    came with its token ("length"). A stop token or stop string brings no text, and no document.
    `tool_calls` are pieces of calls as JSON text: a list of objects with `id`, `name` and
    `arguments`, of which those with one id add up to one call.
    A stored answer has its `stream_id` on each document, and there each has one token.
    """

    token_id: int
    generated_text: str
    sequence_number: Optional[int] = None
    finish_reason: Optional[str] = None
    logprob: Optional[float] = None
    tool_calls: Optional[str] = None
    stream_id: Optional[str] = None
