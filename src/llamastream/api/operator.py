"""What operators and SDKs ask about the server itself: models, health, metrics, version."""

import time
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from llamastream import __version__
from llamastream.api.http.anthropic_errors import is_anthropic
from llamastream.api.http.auth import check_admin
from llamastream.api.http.errors import check_model
from llamastream.api.http.query import json_response
from llamastream.generation import Answers, StoredAnswers
from llamastream.metrics import CONTENT_TYPE

# What holds where a request leaves it out.
DEFAULTS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


class OperatorApi:
    def __init__(self, answers: Answers, stored: StoredAnswers | None) -> None:
        self._answers = answers
        self._stored = stored
        self._created = int(time.time())

    async def models(self, request: Request) -> Response:
        """In one page, whatever is asked of pages."""
        model = self._model(request)
        if is_anthropic(request.scope):
            ends = {"first_id": model["id"], "last_id": model["id"], "has_more": False}
            return json_response({"data": [model], **ends})
        return json_response({"object": "list", "data": [model]})

    async def model(self, request: Request) -> Response:
        check_model(request.path_params["name"], self._answers.model_name)
        return json_response(self._model(request))

    async def health(self, _: Request) -> Response:
        """200 when requests are taken, otherwise 503 with the state.

        While its database fails a server goes on with what is not stored. One whose database was
        taken away from it must be started again; one that others took for dead is soon back.
        """
        status = self._answers.status()
        is_lost = self._stored is not None and self._stored.is_lost
        is_fenced = self._stored is not None and self._stored.is_fenced
        is_ready = self._answers.is_ready() and not is_lost and not is_fenced
        state = "store_lost" if is_lost else "fenced" if is_fenced else status.state.value
        body = {
            "status": "stopping" if self._answers.is_draining else state,
            "running": status.num_running,
            "waiting": status.num_waiting,
        }
        if self._stored is not None and self._stored.is_open:
            body["store"] = "ready" if self._stored.is_working else "unavailable"
        return json_response(body, 200 if is_ready else 503)

    async def metrics(self, request: Request) -> Response:
        """Of all keys together: for one that may know what the others do."""
        check_admin(request.state.key)
        return Response(self._answers.metrics.render(), headers={"content-type": CONTENT_TYPE})

    async def version(self, _: Request) -> Response:
        return json_response({"version": __version__})

    def _model(self, request: Request) -> dict[str, Any]:
        """As the request's client knows models."""
        name, max_model_len = self._answers.model_name, self._answers.status().max_model_len
        if is_anthropic(request.scope):
            return {
                "type": "model",
                "id": name,
                "display_name": name,
                "created_at": datetime.fromtimestamp(self._created, UTC).isoformat(),
                "lifecycle": "active",
                "max_input_tokens": max_model_len or None,
                "max_tokens": max_model_len or None,
            }
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "llamastream",
            "max_model_len": max_model_len or None,  # not known yet
            "sampling": {name: getattr(self._answers.sampling, name) for name in DEFAULTS},
            "details": dict(self._answers.details),
        }
