"""How grammars are written for the parser: a schema, and a text as Lark quotes it."""

import json
from typing import Any

Json = dict[str, Any]

# No white space that a model could go on with for ever; a schema's own options are not read.
COMPACT = {"item_separator": ",", "key_separator": ":"}
SPACED = {"item_separator": ", ", "key_separator": ": "}
STRICT, LENIENT = {"lenient": False, "coerce_one_of": False}, {"lenient": True}


def of_schema(schema: Any, *, is_lenient: bool = False, separators: Json = COMPACT) -> Json:
    schema = {} if schema is True else schema
    if isinstance(schema, dict):
        options = separators | (LENIENT if is_lenient else STRICT)
        schema = schema | {"x-guidance": {"whitespace_flexible": False} | options}
    return {"json_schema": schema}


def quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
