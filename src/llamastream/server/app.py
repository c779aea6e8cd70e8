"""The ASGI application: routes, the gate in front of them, and the service's life."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute, Route

from llamastream.config import ServerSettings
from llamastream.errors import ChatError
from llamastream.server import errors
from llamastream.server.auth import KeyRing
from llamastream.server.completions_api import CompletionsApi
from llamastream.server.gate import Gate
from llamastream.server.operator_api import OperatorApi
from llamastream.service.chat_service import ChatService


def create_app(service: ChatService, settings: ServerSettings) -> Starlette:
    """The HTTP interface of `service`, which it starts and stops with the server."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await service.start()
        try:
            yield
        finally:
            await service.stop()

    app = Starlette(
        routes=_routes(service, settings),
        middleware=_middleware(settings),
        exception_handlers={
            ChatError: errors.on_chat_error,
            HTTPException: errors.on_http_exception,
            Exception: errors.on_bug,
        },
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # a POST does not survive a redirect
    return app


def _routes(service: ChatService, settings: ServerSettings) -> list[BaseRoute]:
    completions = CompletionsApi(service, settings)
    operator = OperatorApi(service, settings)
    return [
        Route("/v1/chat/completions", completions.chat, methods=["POST"]),
        Route("/v1/completions", completions.completion, methods=["POST"]),
        Route("/v1/models", operator.models),
        Route("/v1/models/{name:path}", operator.model),
        Route("/health", operator.health),
        Route("/metrics", operator.metrics),
        Route("/version", operator.version),
    ]


def _middleware(settings: ServerSettings) -> list[Middleware]:
    found = [Middleware(Gate, keys=KeyRing(settings.api_keys))]
    if settings.cors_origins:
        origins = list(settings.cors_origins)
        found.append(
            Middleware(
                CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"]
            )
        )
    return found
