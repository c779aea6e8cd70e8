"""What operators and SDKs ask about the server itself: models, health, metrics, version."""

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from llamastream import __version__
from llamastream.api.http.errors import check_model
from llamastream.api.http.query import json_response
from llamastream.generation.chat_service import ChatService
from llamastream.generation.responses import Responses
from llamastream.metrics import CONTENT_TYPE


class OperatorApi:
    def __init__(self, service: ChatService, responses: Responses | None) -> None:
        self._service = service
        self._responses = responses
        self._created = int(time.time())

    async def models(self, _: Request) -> Response:
        return json_response({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        check_model(request.path_params["name"], self._service.model_name)
        return json_response(self._model())

    async def health(self, _: Request) -> Response:
        """200 when requests are taken, otherwise 503 with the state.

        While its database fails a server goes on with what is not stored. One whose database was
        taken away from it must be started again.
        """
        status = self._service.status()
        is_lost = self._responses is not None and self._responses.is_lost
        is_ready = self._service.is_ready() and not is_lost
        state = "store_lost" if is_lost else status.state.value
        body = {
            "status": "stopping" if self._service.is_draining else state,
            "running": status.num_running,
            "waiting": status.num_waiting,
        }
        if self._responses is not None and self._responses.is_open:
            body["store"] = "ready" if self._responses.store.is_working else "unavailable"
        return json_response(body, 200 if is_ready else 503)

    async def metrics(self, _: Request) -> Response:
        return Response(self._service.metrics.render(), headers={"content-type": CONTENT_TYPE})

    async def version(self, _: Request) -> Response:
        return json_response({"version": __version__})

    def _model(self) -> dict[str, Any]:
        return {
            "id": self._service.model_name,
            "object": "model",
            "created": self._created,
            "owned_by": "llamastream",
            "max_model_len": self._service.status().max_model_len or None,  # not known yet
        }
