"""The ASGI application: routes, the gate in front of them, and the service's life."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute, WebSocketRoute

from llamastream.api import operations as ops
from llamastream.api.conversations import ConversationsApi
from llamastream.api.generate import Generate
from llamastream.api.http import errors
from llamastream.api.http.access import AccessCheck
from llamastream.api.http.anthropic_errors import PREFIX as MESSAGES
from llamastream.api.http.anthropic_errors import versioned
from llamastream.api.http.auth import KeyRing
from llamastream.api.http.browsers import BrowserRules
from llamastream.api.http.connections import Connections
from llamastream.api.http.openapi import ApiRoute, openapi_route
from llamastream.api.http.page import page_routes
from llamastream.api.http.rate_limits import HEADERS as RATE_LIMIT_HEADERS
from llamastream.api.http.rate_limits import RateLimits
from llamastream.api.operator import OperatorApi
from llamastream.api.presets import PresetsApi
from llamastream.api.prompts import PromptsApi
from llamastream.api.socket import ResponsesSocket
from llamastream.api.stored import Stored, StoredChats
from llamastream.api.wire import shapes
from llamastream.api.wire.anthropic.request import CountEndpoint, MessagesEndpoint
from llamastream.api.wire.chat import ChatEndpoint
from llamastream.api.wire.compaction import CompactEndpoint
from llamastream.api.wire.completions import CompletionEndpoint
from llamastream.api.wire.responses import PREFIX, ResponseEndpoint
from llamastream.config import ServeSettings
from llamastream.errors import ChatError
from llamastream.generation import Answers, Quotas, StoredAnswers
from llamastream.keys import Keys
from llamastream.settings import split_commas

COUNTED = {"object": "response.input_tokens"}


def create_app(
    answers: Answers,
    settings: ServeSettings,
    stored: StoredAnswers | None = None,
    routes: Sequence[BaseRoute] = (),
    keys: KeyRing | None = None,
    connections: Connections | None = None,
) -> Starlette:
    """The HTTP interface of `answers` and of what is stored, both started and stopped with the
    server. Without `stored` nothing can be stored. `routes` are those of other wires, `keys` and
    `connections` by default those of the settings."""
    keys = keys or KeyRing(keys_of(settings))
    if connections is None:
        connections = Connections(
            settings.max_connections,
            settings.max_connections_per_address,
            silence_s=settings.reader_timeout,
        )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Any]]:
        await answers.start()
        try:
            if stored is not None:
                await stored.start()
            yield {"connections": connections}  # for uvicorn's protocols
        finally:
            await answers.stop()
            if stored is not None:
                await stored.stop()

    routes = [*_routes(answers, settings, stored), *routes]
    openapi = openapi_route(routes, shapes.Error, model=answers.model_name, is_open=keys.is_open)
    app = Starlette(
        routes=[*routes, openapi],
        middleware=_middleware(settings, keys, answers.quotas),
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
    answers: Answers, settings: ServeSettings, stored: StoredAnswers | None
) -> list[BaseRoute]:
    generate = Generate(answers, stored, settings)
    prompts = PromptsApi(answers, settings)
    operator = OperatorApi(answers, stored)
    of_store = [] if stored is None else _stored_routes(stored, generate, settings)
    return [
        *of_store,
        *(page_routes() if settings.page and of_store else []),
        ApiRoute("/v1/chat/completions", generate.handler(ChatEndpoint()), post=ops.CREATE_CHAT),
        ApiRoute(
            "/v1/completions", generate.handler(CompletionEndpoint()), post=ops.CREATE_COMPLETION
        ),
        ApiRoute(
            MESSAGES, versioned(generate.handler(MessagesEndpoint())), post=ops.CREATE_MESSAGE
        ),
        ApiRoute(
            MESSAGES + "/count_tokens",
            versioned(generate.counter(CountEndpoint(), {})),
            post=ops.COUNT_MESSAGE,
        ),
        ApiRoute("/v1/models", operator.models, get=ops.MODELS),
        ApiRoute("/v1/models/{name:path}", operator.model, get=ops.MODEL),
        ApiRoute("/tokenizer_info", prompts.tokenizer_info, get=ops.TOKENIZER_INFO),
        ApiRoute("/tokenize", prompts.tokenize, post=ops.TOKENIZE),
        ApiRoute("/detokenize", prompts.detokenize, post=ops.DETOKENIZE),
        ApiRoute("/apply-template", prompts.apply_template, post=ops.APPLY_TEMPLATE),
        ApiRoute("/health", operator.health, get=ops.HEALTH),
        ApiRoute("/metrics", operator.metrics, get=ops.METRICS),
        ApiRoute("/version", operator.version, get=ops.VERSION),
    ]


def _stored_routes(
    stored: StoredAnswers, generate: Generate, settings: ServeSettings
) -> list[BaseRoute]:
    """Everything that needs a store."""
    endpoint = ResponseEndpoint(stored)
    responses = Stored(stored, generate, endpoint, prefix=PREFIX, deleted="response")
    chats = StoredChats(stored, generate, settings)
    one, chat = "/v1/responses/{id}", "/v1/chat/completions/{id}"
    return [
        WebSocketRoute("/v1/responses", ResponsesSocket(stored, generate).serve),
        ApiRoute("/v1/responses", generate.handler(endpoint), post=ops.CREATE_RESPONSE),
        ApiRoute(
            "/v1/responses/compact",
            generate.handler(CompactEndpoint(stored)),
            post=ops.COMPACT_RESPONSE,
        ),
        ApiRoute(
            "/v1/responses/input_tokens", generate.counter(endpoint, COUNTED), post=ops.COUNT_INPUT
        ),
        ApiRoute(one, responses.retrieve, get=ops.RETRIEVE_RESPONSE),
        ApiRoute(one, responses.delete, delete=ops.DELETE_STORED),
        ApiRoute(one + "/cancel", responses.cancel, post=ops.CANCEL_RESPONSE),
        ApiRoute(one + "/input_items", responses.input_items, get=ops.LIST_INPUT),
        ApiRoute(one + "/receipt", responses.receipt, get=ops.RECEIPT),
        ApiRoute(one + "/verify", responses.verify, post=ops.VERIFY),
        ApiRoute("/v1/chat/completions", chats.list, get=ops.LIST_CHATS),
        ApiRoute(chat, chats.retrieve, get=ops.RETRIEVE_CHAT),
        ApiRoute(chat, chats.update, post=ops.UPDATE_CHAT),
        ApiRoute(chat, chats.delete, delete=ops.DELETE_STORED),
        ApiRoute(chat + "/messages", chats.messages, get=ops.LIST_MESSAGES),
        ApiRoute(chat + "/receipt", chats.receipt, get=ops.RECEIPT),
        ApiRoute(chat + "/verify", chats.verify, post=ops.VERIFY),
        *_conversation_routes(ConversationsApi(stored, settings)),
        *_preset_routes(PresetsApi(stored, settings)),
    ]


def _conversation_routes(api: ConversationsApi) -> list[BaseRoute]:
    one, items = "/v1/conversations/{id}", "/v1/conversations/{id}/items"
    return [
        ApiRoute("/v1/conversations", api.create, post=ops.CREATE_CONVERSATION),
        ApiRoute("/v1/conversations", api.list, get=ops.LIST_CONVERSATIONS),
        ApiRoute("/v1/search/conversations", api.search, get=ops.SEARCH_CONVERSATIONS),
        ApiRoute(one, api.retrieve, get=ops.RETRIEVE_CONVERSATION),
        ApiRoute(one, api.update, post=ops.UPDATE_CONVERSATION),
        ApiRoute(one, api.delete, delete=ops.DELETE_CONVERSATION),
        ApiRoute(items, api.add_items, post=ops.ADD_ITEMS),
        ApiRoute(items, api.items, get=ops.LIST_ITEMS),
        ApiRoute(items + "/{item_id}", api.item, get=ops.RETRIEVE_ITEM),
        ApiRoute(items + "/{item_id}", api.delete_item, delete=ops.DELETE_ITEM),
    ]


def _preset_routes(api: PresetsApi) -> list[BaseRoute]:
    one = "/v1/presets/{id}"
    return [
        ApiRoute("/v1/presets", api.save, post=ops.SAVE_PRESET),
        ApiRoute("/v1/presets", api.list, get=ops.LIST_PRESETS),
        ApiRoute(one, api.retrieve, get=ops.RETRIEVE_PRESET),
        ApiRoute(one, api.delete, delete=ops.DELETE_PRESET),
    ]


def keys_of(settings: ServeSettings) -> Keys:
    """The API keys that the options accept. Raises ConfigError."""
    return Keys(split_commas(settings.api_key), settings.api_keys_file)


def _middleware(settings: ServeSettings, keys: KeyRing, quotas: Quotas) -> list[Middleware]:
    """CORS is outermost: a browser must be able to read a refusal, too."""
    origins = split_commas(settings.cors_origins)
    browsers = BrowserRules(
        origins=origins,
        hosts=[settings.host, *split_commas(settings.allowed_hosts)],
    )
    gate = Middleware(AccessCheck, keys=keys, browsers=browsers)
    behind = [gate, Middleware(RateLimits, quotas=quotas)]
    if not origins:
        return behind
    cors = Middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["*"],
        allow_headers=["*"],
        allow_private_network=True,  # a public page that is let in may reach a server at home
        expose_headers=["Retry-After", "X-Request-Id", *RATE_LIMIT_HEADERS],
    )
    return [cors, *behind]
