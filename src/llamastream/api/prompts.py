"""/tokenize, /detokenize, /apply-template, /tokenizer_info: what a prompt becomes, and by what.

Named and shaped as in vLLM and llama.cpp, where the two do not contradict each other.
"""

from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from llamastream.api.http.auth import scope_of
from llamastream.api.http.body import read_json
from llamastream.api.http.errors import check_model
from llamastream.api.http.query import json_response
from llamastream.api.wire.messages import Messages, parse_messages
from llamastream.api.wire.options import Model, ModelName, TemplateOptions, WireModel, validate
from llamastream.config import ServeSettings
from llamastream.errors import InvalidRequest
from llamastream.generation import Answers


class TokenizeBody(TemplateOptions):
    """A text as /v1/completions would read it, or a conversation as /v1/chat/completions would."""

    model: ModelName | None = None
    prompt: str | None = None
    messages: Messages | None = None
    add_special_tokens: bool = True  # the BOS
    parse_special: bool = True  # the text of a control token is that token
    return_token_strs: bool = False


class DetokenizeBody(WireModel):
    model: ModelName | None = None
    tokens: list[int]
    skip_special_tokens: bool = False


class TemplateBody(TemplateOptions):
    model: ModelName | None = None
    messages: Messages


class PromptsApi:
    def __init__(self, answers: Answers, settings: ServeSettings) -> None:
        self._answers = answers
        self._prompting = answers.prompting
        self._max_body_bytes = settings.max_body_bytes

    async def tokenize(self, request: Request) -> Response:
        body = await self._read(request, TokenizeBody)
        if (body.prompt is None) == (body.messages is None):
            raise InvalidRequest("Send either prompt or messages.", param="prompt")
        if body.prompt is not None:
            ids = await self._prompting.encode(
                body.prompt,
                self._answers.check_ready(),
                add_special=body.add_special_tokens,
                parse_special=body.parse_special,
                scope=scope_of(request),
            )
        else:
            _, ids = await self._apply_template(request, body.messages or [], body)
        answer = {
            "tokens": ids,
            "count": len(ids),
            "max_model_len": self._answers.status().max_model_len,
        }
        if body.return_token_strs:
            scope = scope_of(request)
            answer["token_strs"] = await self._prompting.token_texts(ids, scope=scope)
        return json_response(answer)

    async def detokenize(self, request: Request) -> Response:
        body = await self._read(request, DetokenizeBody)
        text = await self._prompting.decode(
            body.tokens,
            self._answers.check_ready(),
            skip_special=body.skip_special_tokens,
            scope=scope_of(request),
        )
        return json_response({"prompt": text})

    async def apply_template(self, request: Request) -> Response:
        body = await self._read(request, TemplateBody)
        text, ids = await self._apply_template(request, body.messages, body)
        return json_response({"prompt": text, "tokens": ids, "count": len(ids)})

    async def _apply_template(
        self, request: Request, messages: list[dict[str, Any]], body: TemplateOptions
    ) -> tuple[str, list[int]]:
        return await self._prompting.apply_template(
            parse_messages(messages),
            body.prompt_options(),
            self._answers.check_ready(),
            scope=scope_of(request),
        )

    async def tokenizer_info(self, _: Request) -> Response:
        """What a client must know to read and write the model's text as it does (lm-eval)."""
        facts = self._prompting.tokenizer_facts()
        status = self._answers.status()
        sizes = {"vocab_size": status.vocab_size, "model_max_length": status.max_model_len}
        return json_response(facts | sizes)

    async def _read(self, request: Request, model: type[Model]) -> Model:
        """The body. Raises ModelNotFound if it names another model."""
        raw, body = await read_json(request, self._max_body_bytes, partial(validate, model))
        if isinstance(name := raw.get("model"), str):
            check_model(name, self._answers.model_name)
        return body
