"""The calls around `stream_doc`: Jina's own, gRPC's health checks, and reflection."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any, TypeAlias

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from llamastream import __version__
from llamastream.jina import wire
from llamastream.jina.documents import ENDPOINT

Ready = Callable[[], bool]

Handlers: TypeAlias = "dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]]"
"""Service name -> method name -> handler."""

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"  # generic for type checkers only

HEALTH = "grpc.health.v1.Health"
REFLECTION = ("grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection")
HEALTH_POLL_S = 1.0  # how late a watcher of the health service may learn of a change


def jina_handlers(ready: Ready) -> Handlers:
    """Everything of Jina's but `stream_doc`. Posts are refused with the way out."""

    async def endpoint_discovery(_request: bytes, _context: Context) -> Any:
        return wire.Endpoints(endpoints=[ENDPOINT])

    async def dry_run(_request: bytes, _context: Context) -> Any:
        if ready():
            return wire.Status()
        return wire.Status(code=wire.Status.ERROR, description="the engine is not ready")

    async def status(_request: bytes, _context: Context) -> Any:
        return wire.JinaInfo(jina={"llamastream": __version__})

    return {
        "jina.JinaRPC": {"Call": grpc.stream_stream_rpc_method_handler(_refuse_post)},
        "jina.JinaSingleDataRequestRPC": {
            "process_single_data": grpc.unary_unary_rpc_method_handler(_refuse_post)
        },
        "jina.JinaDiscoverEndpointsRPC": {"endpoint_discovery": _unary(endpoint_discovery)},
        "jina.JinaGatewayDryRunRPC": {"dry_run": _unary(dry_run)},
        "jina.JinaInfoRPC": {"_status": _unary(status)},
    }


async def _refuse_post(_request: Any, context: Context) -> None:
    await context.abort(
        grpc.StatusCode.UNIMPLEMENTED,
        f"post is not offered: use client.stream_doc(on='{ENDPOINT}', ...), which answers token by "
        "token.",
    )


def health_handlers(ready: Ready, services: Collection[str]) -> Handlers:
    """grpc.health.v1 for the server as a whole ("") and for each of `services`: they are ready
    together."""
    states = health_pb2.HealthCheckResponse

    def current(service: str) -> Any:
        if service and service not in services:
            return states(status=states.SERVICE_UNKNOWN)
        return states(status=states.SERVING if ready() else states.NOT_SERVING)

    async def check(request: Any, context: Context) -> Any:
        state = current(request.service)
        if state.status == states.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return state

    async def watch(request: Any, _context: Context) -> AsyncIterator[Any]:
        last = None
        while True:
            now = current(request.service)
            if now != last:
                yield now
                last = now
            await asyncio.sleep(HEALTH_POLL_S)

    parse = health_pb2.HealthCheckRequest.FromString
    return {
        HEALTH: {
            "Check": grpc.unary_unary_rpc_method_handler(check, parse, _serialize),
            "Watch": grpc.unary_stream_rpc_method_handler(watch, parse, _serialize),
        }
    }


def reflection_handlers(services: tuple[str, ...]) -> Handlers:
    """Both versions of the reflection service: their messages are the same."""
    for module in (health_pb2, reflection_pb2):
        wire.POOL.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    servicer = reflection.aio.ReflectionServicer((*services, *REFLECTION), pool=wire.POOL)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=_serialize,
    )
    return {name: {"ServerReflectionInfo": handler} for name in REFLECTION}


def _unary(handle: Callable[[bytes, Any], Any]) -> "grpc.RpcMethodHandler[Any, Any]":
    return grpc.unary_unary_rpc_method_handler(handle, response_serializer=_serialize)


def _serialize(message: Any) -> bytes:
    return message.SerializeToString()  # type: ignore[no-any-return]
