"""The calls around `stream_doc`: Jina's own, gRPC's health checks, and reflection.

None says more than that a server is here, so none but reflection needs a key; and none of them
reads more of its caller than a stranger may send.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from functools import partial
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from llamastream import __version__
from llamastream.api.http.auth import authorization
from llamastream.errors import ChatError, Unauthorized
from llamastream.jina import wire
from llamastream.jina.documents import ENDPOINT
from llamastream.jina.keys import Authorize
from llamastream.jina.receiving import Context, Receiving

Ready = Callable[[], bool]

RpcHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Handlers: TypeAlias = "dict[str, dict[str, RpcHandler]]"
"""Service name -> method name -> handler."""

HEALTH = "grpc.health.v1.Health"
REFLECTION = ("grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection")
MAX_WATCHERS = 64  # they stay, and need no key
HEALTH_POLL_S = 1.0  # how late a watcher of the health service may learn of a change


def jina_handlers(ready: Ready) -> Handlers:
    """Everything of Jina's but `stream_doc`. Posts are refused with the way out."""

    def dry_run() -> Any:
        if ready():
            return wire.Status()
        return wire.Status(code=wire.Status.ERROR, description="the engine is not ready")

    return {
        "jina.JinaRPC": {"Call": unread(_refuse_post)},
        "jina.JinaSingleDataRequestRPC": {"process_single_data": unread(_refuse_post)},
        "jina.JinaDiscoverEndpointsRPC": {
            "endpoint_discovery": _says(lambda: wire.Endpoints(endpoints=[ENDPOINT]))
        },
        "jina.JinaGatewayDryRunRPC": {"dry_run": _says(dry_run)},
        "jina.JinaInfoRPC": {
            "_status": _says(lambda: wire.JinaInfo(jina={"llamastream": __version__}))
        },
    }


def unread(handle: Callable[[Any, Context], Awaitable[None]]) -> RpcHandler:
    """A handler that is called before anything of its caller's messages is received, whatever kind
    of call it is: on the wire they are all streams."""
    return grpc.stream_stream_rpc_method_handler(handle)


def _says(answer: Callable[[], Any]) -> RpcHandler:
    """A call that is answered whatever it asks."""

    async def handle(_: Any, context: Context) -> None:
        await context.write(answer().SerializeToString())

    return unread(handle)


async def _refuse_post(_request: Any, context: Context) -> None:
    await context.abort(
        grpc.StatusCode.UNIMPLEMENTED,
        f"post is not offered: use client.stream_doc(on='{ENDPOINT}', ...), which answers token by "
        "token.",
    )


def health_handlers(ready: Ready, services: Collection[str], receiving: Receiving) -> Handlers:
    """grpc.health.v1 for the server as a whole ("") and for each of `services`: they are ready
    together. MAX_WATCHERS may watch at a time."""
    states = health_pb2.HealthCheckResponse
    num_watchers = 0

    async def service_of(context: Context) -> str:
        try:
            message = await receiving.strangers_message(context)
            return str(health_pb2.HealthCheckRequest.FromString(message).service)
        except (ChatError, DecodeError):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no HealthCheckRequest")

    def current(service: str) -> Any:
        if service and service not in services:
            return states.SERVICE_UNKNOWN
        return states.SERVING if ready() else states.NOT_SERVING

    async def check(_: Any, context: Context) -> None:
        state = current(await service_of(context))
        if state == states.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        await context.write(states(status=state).SerializeToString())

    async def watch(_: Any, context: Context) -> None:
        nonlocal num_watchers
        service, last = await service_of(context), None
        if num_watchers >= MAX_WATCHERS:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"<= {MAX_WATCHERS} may watch at a time: use Check",
            )
        num_watchers += 1
        try:
            while True:
                now = current(service)
                if now != last:
                    await context.write(states(status=now).SerializeToString())
                    last = now
                await asyncio.sleep(HEALTH_POLL_S)
        finally:
            num_watchers -= 1

    return {HEALTH: {"Check": unread(check), "Watch": unread(watch)}}


def reflection_handlers(services: tuple[str, ...], authorize: Authorize) -> Handlers:
    """Both versions of the reflection service: their messages are the same. They need the key."""
    for module in (health_pb2, reflection_pb2):
        wire.POOL.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    servicer = reflection.aio.ReflectionServicer((*services, *REFLECTION), pool=wire.POOL)

    async def info(requests: Any, context: Context) -> AsyncIterator[Any]:
        try:
            authorize(authorization(partial(metadata, context)))
        except Unauthorized as error:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, error.message)
        answers: Any = servicer.ServerReflectionInfo(requests, context)  # typed as a coroutine
        async for answer in answers:
            yield answer

    handler: RpcHandler = grpc.stream_stream_rpc_method_handler(
        info,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=lambda message: message.SerializeToString(),
    )
    return {name: {"ServerReflectionInfo": handler} for name in REFLECTION}


def metadata(context: Context, wanted: str) -> str | None:
    for name, value in context.invocation_metadata() or ():
        if name == wanted:
            return str(value)
    return None
