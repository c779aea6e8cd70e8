"""/v1/presets over HTTP: options of responses under a name."""

import uuid
from typing import Annotated, Any

import orjson
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from llamastream.api.http.auth import scope_of
from llamastream.api.http.body import read_json
from llamastream.api.http.idempotency import HEADER, refuse_key
from llamastream.api.http.query import check_query, json_response, page_json, page_query, path_id
from llamastream.api.wire.options import WireModel, validate
from llamastream.api.wire.responses import ResponseBody
from llamastream.config import ServeSettings
from llamastream.errors import InvalidRequest
from llamastream.generation import StoredAnswers
from llamastream.records import Preset
from llamastream.sampling import SamplingParams

MAX_NAME_CHARS = 100
MAX_SETTINGS_BYTES = 2**16  # as JSON
# These say what is asked, where it belongs and how it is delivered: each request's own affair.
NO_SETTINGS = (
    *("model", "input", "conversation", "previous_response_id", "store", "background"),
    *("stream", "stream_options", "metadata", "include"),
)


class NewPreset(WireModel):
    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS, pattern=r"^[^\x00-\x1f]*$")]
    settings: dict[str, Any]


class PresetsApi:
    def __init__(self, stored: StoredAnswers, settings: ServeSettings) -> None:
        self._stored = stored
        self._max_body_bytes = settings.max_body_bytes

    async def save(self, request: Request) -> Response:
        """A new one, or other settings under a name that is there."""
        refuse_key(request.headers.get(HEADER), "is not needed here: leave it out")
        _, body = await read_json(request, self._max_body_bytes, _parse)
        scope = scope_of(request)
        preset = await self._stored.presets.save(
            f"preset_{uuid.uuid4().hex}",
            scope=scope,
            name=body.name,
            settings=body.settings,
            allow=self._stored.allow(scope),
        )
        return json_response(_to_json(preset))

    async def list(self, request: Request) -> Response:
        page = await self._stored.presets.list(scope=scope_of(request), query=page_query(request))
        return json_response(page_json(page, _to_json))

    async def retrieve(self, request: Request) -> Response:
        check_query(request, ())
        preset = await self._stored.presets.get(path_id(request), scope=scope_of(request))
        return json_response(_to_json(preset))

    async def delete(self, request: Request) -> Response:
        await self._stored.presets.delete(path_id(request), scope=scope_of(request))
        return json_response({"id": path_id(request), "object": "preset.deleted", "deleted": True})


def _parse(fields: dict[str, Any]) -> NewPreset:
    """Its settings are checked as a request's options are. Raises InvalidRequest."""
    body = validate(NewPreset, fields)
    size = len(orjson.dumps(body.settings))
    if size > MAX_SETTINGS_BYTES:
        raise InvalidRequest(
            f"settings must have <= {MAX_SETTINGS_BYTES} bytes as JSON. Given: {size}.",
            param="settings",
        )
    for name in NO_SETTINGS:
        if name in body.settings:
            raise InvalidRequest(
                f"settings must be what several requests can share, and {name} is one's own: leave "
                "it out.",
                param=f"settings.{name}",
            )
    options = validate(ResponseBody, {**body.settings, "model": ""})
    options.to_request((), SamplingParams(), "", "")
    return body


def _to_json(preset: Preset) -> dict[str, Any]:
    return {
        "id": preset.id,
        "object": "preset",
        "created_at": int(preset.created_at),
        "name": preset.name,
        "settings": preset.settings,
    }
