"""Whether a finished answer fits its schema, where not all of that could be enforced."""

from typing import Any, NoReturn

import jsonschema_rs
import orjson

from llamastream.errors import InvalidRequest, quoted

MAX_PATTERN_BYTES = 1 << 20  # of a compiled pattern; matching is linear in the text


class Checker:
    """One schema. Nothing is fetched, and no pattern can hold it up."""

    def __init__(self, schema: Any, param: str) -> None:
        """Raises InvalidRequest for what is no schema."""
        try:
            self._validator = jsonschema_rs.validator_for(
                schema,
                retriever=_refuse,
                validate_formats=True,
                pattern_options=jsonschema_rs.RegexOptions(size_limit=MAX_PATTERN_BYTES),
            )
        except (ValueError, TypeError) as error:
            reason = " ".join(str(error).split("\n")[0].split())[:300]
            raise InvalidRequest(
                f"{param} cannot be checked: {reason}. Leave that out.", param=param
            ) from error

    def problem(self, text: str) -> str | None:
        """The first thing that is wrong with an answer, None if it fits."""
        try:
            answer = orjson.loads(text)
        except orjson.JSONDecodeError:
            return "it is no JSON, having ended early"
        try:
            error = next(iter(self._validator.iter_errors(answer)), None)
        except ValueError as failure:
            return f"it cannot be checked: {quoted(str(failure), mark=False)}"
        if error is None:
            return None
        place = "".join(f"/{part}" for part in error.instance_path)
        rule = "/".join(map(str, error.schema_path))
        return f"{quoted(place or '/')} breaks {quoted(rule)}"


def _refuse(uri: str) -> NoReturn:
    raise ValueError(f"{uri} is not part of the schema")
