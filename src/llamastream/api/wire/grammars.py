"""The options that say what an answer must keep to: OpenAI's `response_format` and `text.format`,
and vLLM's `structured_outputs` and `guided_*`. They are checked here for shape alone."""

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from llamastream.api.wire.options import WireModel
from llamastream.errors import InvalidRequest
from llamastream.types import GrammarKind, GrammarSpec

Name = Annotated[str, Field(max_length=64)]
Choices = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
ANY_OBJECT = '{"type":"object"}'


class JsonSchema(WireModel):
    """`name` and `description` are labels without any effect."""

    name: Name | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(WireModel):
    """Of chats and completions."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    def spec(self) -> GrammarSpec | None:
        """Raises InvalidRequest."""
        name = "response_format"
        if self.type == "json_schema" and self.json_schema is None:
            raise InvalidRequest(f"{name}.json_schema is required.", param=f"{name}.json_schema")
        if self.type != "json_schema" and self.json_schema is not None:
            raise InvalidRequest(
                f"{name}.json_schema needs `type: json_schema`.", param=f"{name}.json_schema"
            )
        return spec_of_format(self.type, self.json_schema, name)


class TextFormat(JsonSchema):
    """`text.format` of responses: the schema's fields beside the type."""

    type: Literal["text", "json_object", "json_schema"]

    def spec(self) -> GrammarSpec | None:
        """Raises InvalidRequest."""
        if self.type != "json_schema" and (self.schema_ is not None or self.strict):
            raise InvalidRequest(
                "text.format.schema needs `type: json_schema`.", param="text.format.schema"
            )
        return spec_of_format(self.type, self, "text.format")

    def shown(self) -> dict[str, Any]:
        """As the response's object repeats it."""
        if self.type != "json_schema":
            return {"type": self.type}
        return {
            "type": self.type,
            "name": self.name or "",
            "description": self.description,
            "schema": self.schema_ or {},
            "strict": bool(self.strict),
        }


class StructuredOutputs(WireModel):
    """vLLM's, of which one may be given. A schema may be a text."""

    json_: dict[str, Any] | str | None = Field(None, alias="json")
    regex: str | None = None
    choice: Choices | None = None
    grammar: str | None = None
    json_object: bool | None = None

    def specs(self) -> Iterator[GrammarSpec]:
        name = "structured_outputs"
        yield from _specs(name + ".", self.json_, self.regex, self.choice, self.grammar)
        if self.json_object:
            yield GrammarSpec(GrammarKind.JSON_SCHEMA, ANY_OBJECT, param=f"{name}.json_object")


class GuidedOptions(WireModel):
    """What all endpoints take. vLLM's are strict: what cannot be enforced is refused."""

    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: Choices | None = None
    guided_grammar: str | None = None

    def grammar(self, spec: GrammarSpec | None) -> GrammarSpec | None:
        """The one that is asked for; `spec` by an option of OpenAI's. Raises InvalidRequest."""
        found = [] if spec is None else [spec]
        if self.structured_outputs is not None:
            found += self.structured_outputs.specs()
        found += _specs(
            "guided_", self.guided_json, self.guided_regex, self.guided_choice, self.guided_grammar
        )
        if len(found) > 1:
            first, second = found[0].param, found[1].param
            raise InvalidRequest(
                f"{first} and {second} exclude each other: send one of them.", param=second
            )
        return found[0] if found else None


class FormatOptions(GuidedOptions):
    """What chats and completions take."""

    response_format: ResponseFormat | None = None

    @property
    def asked_grammar(self) -> GrammarSpec | None:
        """Raises InvalidRequest."""
        asked = self.response_format
        return self.grammar(None if asked is None else asked.spec())


def spec_of_format(type: str, schema: JsonSchema | None, param: str) -> GrammarSpec | None:
    if type == "text":
        return None
    if type == "json_object" or schema is None:
        return GrammarSpec(GrammarKind.JSON_SCHEMA, ANY_OBJECT, param=param)
    text = _text(schema.schema_ or {}, param)
    return GrammarSpec(GrammarKind.JSON_SCHEMA, text, strict=bool(schema.strict), param=param)


def _specs(
    prefix: str,
    schema: dict[str, Any] | str | None,
    regex: str | None,
    choices: list[str] | None,
    grammar: str | None,
) -> Iterator[GrammarSpec]:
    if schema is not None:
        param = f"{prefix}json"
        text = schema if isinstance(schema, str) else _text(schema, param)
        yield GrammarSpec(GrammarKind.JSON_SCHEMA, text, param=param)
    if regex is not None:
        yield GrammarSpec(GrammarKind.REGEX, regex, param=f"{prefix}regex")
    if choices is not None:
        yield GrammarSpec(GrammarKind.CHOICE, json.dumps(choices), param=f"{prefix}choice")
    if grammar is not None:
        yield GrammarSpec(GrammarKind.LARK, grammar, param=f"{prefix}grammar")


def _text(schema: dict[str, Any], param: str) -> str:
    """In the client's order of keys, which is that of the answer."""
    try:
        return json.dumps(schema, separators=(",", ":"), ensure_ascii=False)
    except RecursionError:
        raise InvalidRequest(f"{param} is nested too deeply.", param=param) from None
