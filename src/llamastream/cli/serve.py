"""`llamastream serve`: the HTTP service in front of one model."""

import asyncio
import gc
import ipaddress
import math
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

import uvicorn
import uvloop
from starlette.applications import Starlette

from llamastream.api.app import create_app, keys_of
from llamastream.api.http.auth import KeyRing
from llamastream.api.http.connections import affordable, raise_file_limit
from llamastream.api.http.page import is_built
from llamastream.api.http.transport import HttpProtocol
from llamastream.api.http.websocket import WebSocketProtocol
from llamastream.app import Assembly, assemble, join_store
from llamastream.cli.options import with_settings
from llamastream.cli.progress import progress_bars
from llamastream.cli.stopping import HttpServer, Stopping
from llamastream.config import EngineSettings, ModelSettings, ServeSettings, StoreSettings
from llamastream.errors import ConfigError
from llamastream.generation import Answers, Quotas, StoredAnswers
from llamastream.jina.http_routes import jina_routes
from llamastream.jina.service import StreamService
from llamastream.logs import configure_logging
from llamastream.models import Progress

if TYPE_CHECKING:
    from llamastream.jina.grpc_server import GrpcServer

BACKLOG = 2048  # connections the kernel queues while the event loop is busy
SEND_BUFFER_BYTES = 256 * 1024  # of a connection in the kernel: what a reader may lag unnoticed


@with_settings(ModelSettings, EngineSettings, ServeSettings, StoreSettings)
def serve(
    model: ModelSettings, engines: EngineSettings, server: ServeSettings, store: StoreSettings
) -> None:
    """Serve a model over HTTP, with OpenAI's interface.

    Without options: the small demo model, fetched once, on http://127.0.0.1:8000.
    """
    gc.disable()  # until it is up: nothing of what a start makes is garbage
    configure_logging(server.log_level)
    raise_file_limit()
    listener = bind(server)
    with progress_bars() as progress:
        assembly, stored, streams, app = application(model, engines, server, store, progress)
        config = uvicorn.Config(
            app,
            loop="uvloop",
            http=HttpProtocol,
            log_config=None,
            backlog=BACKLOG,
            lifespan="on",
            timeout_keep_alive=math.ceil(server.reader_timeout),
            ws=WebSocketProtocol,
            ws_max_size=server.max_body_bytes,
            ws_ping_interval=server.ping_interval_s,
            ws_ping_timeout=server.reader_timeout,
        )
        stopping = Stopping(assembly.answers, stored, store.drain_timeout)
        http = HttpServer(config, stopping)
        uvloop.run(_serve(http, listener, assembly, stored, streams, server))


class Application(NamedTuple):
    """A whole service, not started, and what it is made of."""

    assembly: Assembly
    stored: StoredAnswers
    streams: StreamService
    app: Starlette


def application(
    model: ModelSettings,
    engines: EngineSettings,
    server: ServeSettings,
    store: StoreSettings,
    progress: Progress | None = None,
) -> Application:
    """Raises ModelError and ConfigError."""
    keys = keys_of(server)
    assembly = assemble(
        model,
        served_model_name=server.served_model_name,
        progress=progress,
        quotas=Quotas(keys),
        engines=engines,
        store=store,
    )
    stored = join_store(assembly.answers, store, data_dir=model.data_dir)
    ring = KeyRing(keys)
    streams = StreamService(assembly.answers, ring.scope_of_header, stored, ring.refresh)
    routes = jina_routes(streams, server.max_body_bytes)
    app = create_app(assembly.answers, server, stored, routes, ring)
    return Application(assembly, stored, streams, app)


async def _serve(
    http: HttpServer,
    listener: socket.socket,
    assembly: Assembly,
    stored: StoredAnswers,
    streams: StreamService,
    settings: ServeSettings,
) -> None:
    """Serve until a signal comes, or until something turns out to be unusable: the weights
    (ModelError) or the port for gRPC (ConfigError)."""
    await _open(assembly.answers, stored)
    async with AsyncExitStack() as others:
        serving = asyncio.create_task(http.serve(sockets=[listener]))
        up = asyncio.create_task(_up(http, assembly, streams, settings, others))
        await asyncio.wait([serving, up], return_when=asyncio.FIRST_COMPLETED)
        failure = up.exception() if up.done() else None
        if up.done() and failure is None:
            for line in _greeting(assembly, listener, settings, where=up.result()):
                print(f"llamastream: {line}", flush=True)
        if failure is not None:
            http.should_exit = True
        up.cancel()
        await serving
        if failure is not None:
            raise failure


async def _up(
    http: HttpServer,
    assembly: Assembly,
    streams: StreamService,
    settings: ServeSettings,
    others: AsyncExitStack,
) -> str:
    """Return when requests are taken, and say where those for gRPC are. Raises what loading raised.

    HTTP comes first: what gRPC imports takes as long as its first answer.
    """
    await assembly.engine.ready()
    await http.listening()
    grpc, where = await _serve_grpc(streams, settings)
    if grpc is not None:
        others.push_async_callback(grpc.stop)
    # What is there now stays: to look through it for cycles would stop all streams for 50 ms.
    gc.freeze()
    gc.enable()
    return where


def _greeting(
    assembly: Assembly, listener: socket.socket, settings: ServeSettings, *, where: str
) -> Iterator[str]:
    host, port = listener.getsockname()[:2]
    yield f"{assembly.answers.model_name} is ready on http://{host}:{port}/v1"
    if settings.page:
        yield f"chat page on http://{host}:{port}/" if is_built() else "no chat page: make web"
    yield where


async def _open(answers: Answers, stored: StoredAnswers) -> None:
    """Begin to load the weights, and open the store meanwhile. Raises StoreError."""
    await answers.start()
    try:
        await stored.start()
    except BaseException:
        await answers.stop()
        await stored.stop()
        raise


async def _serve_grpc(
    streams: StreamService, settings: ServeSettings
) -> "tuple[GrpcServer | None, str]":
    """The server, if any, and what to say of it.

    A port that was not asked for may be in use: a second `serve` then goes without.
    """
    module = await asyncio.to_thread(import_module, "llamastream.jina.grpc_server")
    port = module.DEFAULT_PORT if settings.grpc_port is None else settings.grpc_port
    try:
        server: GrpcServer = await module.serve_grpc(
            streams,
            settings.host,
            port,
            reader_timeout_s=settings.reader_timeout,
            max_message_bytes=settings.max_body_bytes,
            max_connections=affordable(settings.max_connections),
        )
    except OSError as error:
        if settings.grpc_port is not None:
            raise ConfigError(f"{error}. Choose another with --grpc-port.") from None
        return None, f"no gRPC for jina clients: port {port} is in use. Try --grpc-port 0"
    return server, f"gRPC for jina clients on {settings.host}:{server.port}"


def bind(server: ServeSettings) -> socket.socket:
    """Take the port before anything slow happens. Raises ConfigError if that cannot be done."""
    has_keys = server.api_key is not None or server.api_keys_file is not None
    if not has_keys and not _is_loopback(server.host):
        raise ConfigError(
            f"--host {server.host} is reachable from other machines: set --api-key (or "
            "LLAMASTREAM_API_KEY) or --api-keys-file, or listen on 127.0.0.1."
        )
    try:
        family = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)[0][0]
        # asyncio sends at once only on sockets that say they are TCP.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _bound_readers(listener, server.reader_timeout)
        listener.bind((server.host, server.port))
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {server.host} port {server.port}: {error.strerror}. "
            "Choose another with --port."
        ) from None
    return listener


def _bound_readers(listener: socket.socket, timeout_s: float) -> None:
    """Let the kernel end connections whose other end has vanished or takes nothing for so long.

    All connections inherit these options. Where the system has no TCP_USER_TIMEOUT (it is Linux's),
    such a connection lasts until the system's own limits.
    """
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, math.ceil(timeout_s * 1000)
        )
        # Probes on a connection on which nothing is sent; the line above says when they failed.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, math.ceil(timeout_s / 2))
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, math.ceil(timeout_s / 4))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
