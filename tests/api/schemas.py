"""OpenAI's published schemas as validators. They are OpenAPI 3.0: `nullable` beside `type`."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

PATH = Path(__file__).parents[3] / "shared" / "data" / "openai_chat_schemas.json"

needs_schemas = pytest.mark.skipif(
    not PATH.exists(), reason="../shared/data/openai_chat_schemas.json is missing"
)


@cache
def validator(name: str) -> Draft202012Validator:
    schemas = json.loads(PATH.read_text())["schemas"]
    document = _without_nullable({"components": {"schemas": schemas}})
    return Draft202012Validator({**document, "$ref": f"#/components/schemas/{name}"})


def validate(name: str, value: Any) -> None:
    """Raises jsonschema.ValidationError."""
    validator(name).validate(value)


def _without_nullable(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_nullable(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    converted = {key: _without_nullable(value) for key, value in schema.items()}
    if converted.pop("nullable", False) is True:
        return {"anyOf": [converted, {"type": "null"}]}
    return converted
