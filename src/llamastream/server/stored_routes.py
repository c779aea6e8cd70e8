"""Routes of what is stored: responses and conversations."""

from starlette.routing import BaseRoute, Route, WebSocketRoute

from llamastream.config import ServeSettings
from llamastream.server.conversations_api import ConversationsApi
from llamastream.server.response_start import ResponseDesk
from llamastream.server.responses_api import ResponsesApi
from llamastream.server.responses_socket import ResponsesSocket
from llamastream.server.stored_chat import StoredChatApi
from llamastream.service.responses import Responses


def stored_routes(
    responses: Responses, chat: StoredChatApi, settings: ServeSettings
) -> list[BaseRoute]:
    """Everything that needs a store."""
    desk = ResponseDesk(responses)
    api = ResponsesApi(desk, settings)
    return [
        WebSocketRoute("/v1/responses", ResponsesSocket(desk, settings).serve),
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
