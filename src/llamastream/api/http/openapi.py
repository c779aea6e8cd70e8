"""/openapi.json: the interface as a document, made from the routes and from the models that check
their bodies.

A route that is to be in it is an `ApiRoute`: it brings what cannot be read off its code.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from typing import Any, TypeAlias

import orjson
from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from llamastream import __version__
from llamastream.api.wire.options import MODEL_NAME, NOTHING_SCHEMA

PATH = "/openapi.json"
REF = "#/components/schemas/{model}"
EVENTS = "text/event-stream"
JSON = "application/json"
ALWAYS = (400, 403, 421, 429, 500, 503)
WITH_BODY = (408, 413, 415)

Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Operation:
    """What one method of a route does."""

    summary: str
    answer: Any  # a type that pydantic knows, or a media type for anything but JSON
    body: Any = None  # the model that checks it, or a media type
    query: Mapping[str, Json] | None = None  # schemas by name; all may be left out
    headers: Mapping[str, Json] | None = None
    streams: bool = False  # if asked to, as server-sent events
    is_open: bool = False  # without a key
    errors: tuple[int, ...] = ()  # beside those that any may have
    error: Any = None  # its type, where it is not that of all others


class ApiRoute(Route):
    """A route with what is said of it: one operation, or one for each method."""

    def __init__(
        self, path: str, endpoint: Callable[..., Any], **operations: Operation | None
    ) -> None:
        """operations: by method, in lower case."""
        self.operations = {name: found for name, found in operations.items() if found is not None}
        super().__init__(path, endpoint, methods=[name.upper() for name in self.operations])


def openapi_route(routes: Iterable[BaseRoute], error: Any, *, model: str, is_open: bool) -> Route:
    """The route of the document. error: the type of all errors. is_open: no key is needed."""
    described = [route for route in routes if isinstance(route, ApiRoute)]

    @cache
    def rendered() -> bytes:
        return orjson.dumps(document(described, error, model=model, is_open=is_open))

    async def openapi(_: Request) -> Response:
        body = await asyncio.to_thread(rendered)  # takes a while, once
        return Response(body, media_type=JSON)

    return Route(PATH, openapi)


def document(routes: Iterable[ApiRoute], error: Any, *, model: str, is_open: bool) -> Json:
    """OpenAPI 3.1."""
    paths: Json = {}
    types: dict[str, Any] = {"Error": error}
    for route in routes:
        path = route.path.replace(":path}", "}")
        for method, operation in route.operations.items():
            described = _operation(route, operation, types)
            described["operationId"] = f"{method} {path}"
            paths.setdefault(path, {})[method] = described
    document: Json = {
        "openapi": "3.1.0",
        "info": {"title": "llamastream", "version": __version__},
        "paths": paths,
        "components": {"schemas": _named(_schemas(types), model)},
    }
    if not is_open:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
        _describe_keys(paths)
    return document


def _describe_keys(paths: Json) -> None:
    for path in paths.values():
        for operation in path.values():
            if operation.pop("x-open"):
                operation["security"] = []
            else:
                operation["responses"]["401"] = operation["responses"]["403"]


def _operation(route: Route, operation: Operation, types: dict[str, Any]) -> Json:
    named = sorted(route.param_convertors)
    parameters = [_parameter("path", name, {"type": "string"}) for name in named]
    parameters += [_parameter("query", *pair) for pair in (operation.query or {}).items()]
    parameters += [_parameter("header", *pair) for pair in (operation.headers or {}).items()]
    answers = _content(operation.answer, types)
    if operation.streams:
        answers |= _content(EVENTS, types)
    errors = {*ALWAYS, *operation.errors, *(WITH_BODY if operation.body else ())}
    errors |= {404} if named else set()
    failed = "Error"
    if operation.error is not None:
        failed = operation.error.__name__
        types[failed] = operation.error
    failures = {str(status): _failure(status, failed) for status in sorted(errors)}
    described: Json = {
        "summary": operation.summary,
        "parameters": parameters,
        "responses": {"200": {"description": "OK", "content": answers}, **failures},
        "x-open": operation.is_open,
    }
    if operation.body is not None:
        content = _content(operation.body, types)
        described["requestBody"] = {"required": True, "content": content}
    return described


def _parameter(where: str, name: str, schema: Json) -> Json:
    return {"in": where, "name": name, "required": where == "path", "schema": schema}


def _content(kind: Any, types: dict[str, Any]) -> Json:
    if isinstance(kind, str):
        return {kind: {} if kind == EVENTS else {"schema": {"type": "string"}}}
    types[kind.__name__] = kind
    return {JSON: {"schema": {"$ref": REF.format(model=kind.__name__)}}}


def _failure(status: int, model: str) -> Json:
    content = {JSON: {"schema": {"$ref": REF.format(model=model)}}}
    is_known = status in set(HTTPStatus)
    return {"description": HTTPStatus(status).phrase if is_known else "", "content": content}


def _schemas(types: Mapping[str, Any]) -> Json:
    inputs = [(name, "validation", TypeAdapter(kind)) for name, kind in types.items()]
    refs, found = TypeAdapter.json_schemas(inputs, ref_template=REF)  # type: ignore[arg-type]
    schemas: Json = {"Nothing": NOTHING_SCHEMA, **found["$defs"]}
    for (name, _), schema in refs.items():
        schemas.setdefault(name, schema)  # a reference to itself where it has a name already
    return schemas


def _named(schema: Any, model: str) -> Any:
    """A schema in which a model's name is that of the one that is served."""
    if isinstance(schema, list):
        return [_named(part, model) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("format") == MODEL_NAME["format"]:
        return {"enum": [model]}
    return {name: _named(part, model) for name, part in schema.items()}
