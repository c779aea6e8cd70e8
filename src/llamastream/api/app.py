"""The ASGI application: routes, the gate in front of them, and the service's life."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute, Route, WebSocketRoute

from llamastream.api.completions_api import CompletionsApi
from llamastream.api.conversations import ConversationsApi
from llamastream.api.http import errors
from llamastream.api.http.auth import KeyRing
from llamastream.api.http.browsers import BrowserRules
from llamastream.api.http.gate import Gate
from llamastream.api.http.page import page_routes
from llamastream.api.operator import OperatorApi
from llamastream.api.prompts import PromptsApi
from llamastream.api.responses.api import ResponsesApi
from llamastream.api.responses.desk import ResponseDesk
from llamastream.api.socket import ResponsesSocket
from llamastream.api.stored_chat import StoredChatApi
from llamastream.config import ServeSettings, split_commas
from llamastream.errors import ChatError
from llamastream.generation.chat_service import ChatService
from llamastream.generation.responses import Responses
from llamastream.jina.desk import StreamDesk
from llamastream.jina.http_routes import jina_routes


def create_app(
    service: ChatService, settings: ServeSettings, responses: Responses | None = None
) -> Starlette:
    """The HTTP interface of `service` and of what is stored, both started and stopped with the
    server. Without `responses` nothing can be stored."""
    keys = key_ring(settings)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await service.start()
        try:
            if responses is not None:
                await responses.start()
            yield
        finally:
            await service.stop()
            if responses is not None:
                await responses.stop()

    app = Starlette(
        routes=[
            *_routes(service, settings, responses),
            *jina_routes(
                StreamDesk(service, keys.scope_of_header, service.is_ready, responses),
                settings.max_body_bytes,
            ),
        ],
        middleware=_middleware(settings, keys),
        exception_handlers={
            ChatError: errors.on_chat_error,
            HTTPException: errors.on_http_exception,
            Exception: errors.on_bug,
        },
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # a POST does not survive a redirect
    return app


def _routes(
    service: ChatService, settings: ServeSettings, responses: Responses | None
) -> list[BaseRoute]:
    stored_chat = None if responses is None else StoredChatApi(responses, settings)
    completions = CompletionsApi(service, settings, stored_chat)
    prompts = PromptsApi(service, settings)
    operator = OperatorApi(service, responses)
    stored = []
    if responses is not None and stored_chat is not None:
        stored = _stored_routes(responses, stored_chat, settings)
    return [
        *stored,
        *(page_routes() if settings.page and stored else []),
        Route("/v1/chat/completions", completions.chat, methods=["POST"]),
        Route("/v1/completions", completions.completion, methods=["POST"]),
        Route("/v1/models", operator.models),
        Route("/v1/models/{name:path}", operator.model),
        Route("/tokenize", prompts.tokenize, methods=["POST"]),
        Route("/detokenize", prompts.detokenize, methods=["POST"]),
        Route("/apply-template", prompts.apply_template, methods=["POST"]),
        Route("/health", operator.health),
        Route("/metrics", operator.metrics),
        Route("/version", operator.version),
    ]


def _stored_routes(
    responses: Responses, chat: StoredChatApi, settings: ServeSettings
) -> list[BaseRoute]:
    """Everything that needs a store."""
    desk = ResponseDesk(responses)
    api = ResponsesApi(desk, settings)
    return [
        WebSocketRoute("/v1/responses", ResponsesSocket(desk).serve),
        Route("/v1/responses", api.create, methods=["POST"]),
        Route("/v1/responses/{id}", api.retrieve, methods=["GET"]),
        Route("/v1/responses/{id}", api.delete, methods=["DELETE"]),
        Route("/v1/responses/{id}/cancel", api.cancel, methods=["POST"]),
        Route("/v1/responses/{id}/input_items", api.input_items, methods=["GET"]),
        Route("/v1/chat/completions", chat.list, methods=["GET"]),
        Route("/v1/chat/completions/{id}", chat.retrieve, methods=["GET"]),
        Route("/v1/chat/completions/{id}", chat.update, methods=["POST"]),
        Route("/v1/chat/completions/{id}", chat.delete, methods=["DELETE"]),
        Route("/v1/chat/completions/{id}/messages", chat.messages, methods=["GET"]),
        *_conversation_routes(ConversationsApi(responses, settings)),
    ]


def _conversation_routes(api: ConversationsApi) -> list[BaseRoute]:
    one, items = "/v1/conversations/{id}", "/v1/conversations/{id}/items"
    return [
        Route("/v1/conversations", api.create, methods=["POST"]),
        Route("/v1/conversations", api.list, methods=["GET"]),
        Route(one, api.retrieve, methods=["GET"]),
        Route(one, api.update, methods=["POST"]),
        Route(one, api.delete, methods=["DELETE"]),
        Route(items, api.add_items, methods=["POST"]),
        Route(items, api.items, methods=["GET"]),
        Route(items + "/{item_id}", api.item, methods=["GET"]),
        Route(items + "/{item_id}", api.delete_item, methods=["DELETE"]),
    ]


def key_ring(settings: ServeSettings) -> KeyRing:
    """The API keys that the options accept."""
    return KeyRing(split_commas(settings.api_key))


def _middleware(settings: ServeSettings, keys: KeyRing) -> list[Middleware]:
    """CORS is outermost: a browser must be able to read a refusal, too."""
    origins = split_commas(settings.cors_origins)
    browsers = BrowserRules(
        origins=origins,
        hosts=[settings.host, *split_commas(settings.allowed_hosts)],
    )
    gate = Middleware(Gate, keys=keys, browsers=browsers)
    if not origins:
        return [gate]
    cors = Middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["*"],
        allow_headers=["*"],
        allow_private_network=True,  # a public page that is let in may reach a server at home
        expose_headers=["Retry-After", "X-Request-Id"],
    )
    return [cors, gate]
