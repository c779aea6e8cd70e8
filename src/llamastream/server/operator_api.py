"""What operators and SDKs ask about the server itself: models, health, metrics, version."""

import time
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from llamastream import __version__
from llamastream.config import ServerSettings
from llamastream.errors import ModelNotFound
from llamastream.messages import EngineState
from llamastream.metrics import CONTENT_TYPE
from llamastream.service.chat_service import ChatService


class OperatorApi:
    def __init__(self, service: ChatService, settings: ServerSettings) -> None:
        self._service = service
        self._names = settings.served_model_names
        self._created = int(time.time())

    async def models(self, _: Request) -> Response:
        return _json({"object": "list", "data": [self._model(name) for name in self._names]})

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._names:
            raise ModelNotFound(
                f"The model {name[:100]!r} is not served here. Available: "
                f"{', '.join(self._names)}.",
                param="model",
            )
        return _json(self._model(name))

    async def health(self, _: Request) -> Response:
        """200 when requests are taken, otherwise 503 with the state."""
        status = self._service.status()
        body = {
            "status": status.state.value,
            "running": status.num_running,
            "waiting": status.num_waiting,
        }
        return _json(body, 200 if status.state is EngineState.READY else 503)

    async def metrics(self, _: Request) -> Response:
        return Response(self._service.metrics.render(), headers={"content-type": CONTENT_TYPE})

    async def version(self, _: Request) -> Response:
        return _json({"version": __version__})

    def _model(self, name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "llamastream",
            "root": self._service.model_name,
            "max_model_len": self._service.status().max_model_len,
        }


def _json(body: dict[str, Any], status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, media_type="application/json")
