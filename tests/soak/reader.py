"""A client that follows one response to its end, whatever happens to its connections."""

import asyncio
import json
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Literal, Self

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from tests.soak.following import Disagreement, Following, Interrupted
from tests.soak.grpc_reader import grpc_events

Transport = Literal["sse", "websocket", "grpc"]

RETRY_S = 0.05
# After these a reader comes again. A connection that just ends is a StopAsyncIteration.
FAULTS = (httpx.TransportError, WebSocketException, OSError, StopAsyncIteration, Interrupted)


async def follow(
    following: Following,
    doors: "Doors",
    transport: Transport = "sse",
    *,
    rng: random.Random | None = None,
    leave_chance: float = 0.0,
    silence_s: float | None = None,
) -> None:
    """Read to the end. With `leave_chance` per event the reader hangs up and comes again; so it
    does when it hears nothing for `silence_s`."""
    rng = rng or random.Random(0)
    while following.status is None:
        following.num_connections += 1
        try:
            async with aclosing(doors.events(following, transport)) as stream:
                while following.status is None and rng.random() >= leave_chance:
                    async with asyncio.timeout(silence_s):
                        event = await anext(stream)
                    following.take(event)
        except FAULTS:
            await asyncio.sleep(RETRY_S)


class Doors:
    """Where the server is reached: `port` and `grpc_port` are its own or a relay's."""

    def __init__(self, port: int, grpc_port: int) -> None:
        # A connection for each request, since it is connections that are cut.
        limits = httpx.Limits(max_keepalive_connections=0)
        self.client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=httpx.Timeout(30), limits=limits
        )
        self._grpc = f"127.0.0.1:{grpc_port}"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()

    def events(
        self, following: Following, transport: Transport
    ) -> AsyncGenerator[dict[str, Any], None]:
        """What `following` has not seen, as far as one connection brings it.

        Ends or raises one of FAULTS where that breaks, and Disagreement where it is refused.
        """
        if transport == "grpc":
            return grpc_events(following, self._grpc)
        if transport == "websocket":
            return socket_events(following, self.client)
        return sse_events(following, self.client)


async def sse_events(
    following: Following, client: httpx.AsyncClient
) -> AsyncGenerator[dict[str, Any], None]:
    if following.response_id is None:
        # The key finds the response if the server had begun it before it died.
        is_stored = following.body.get("store") is not False
        request = client.build_request(
            "POST",
            "/v1/responses",
            json=following.body | {"stream": True},
            headers={"Idempotency-Key": following.key} if is_stored else None,
        )
    else:
        params: dict[str, Any] = {"stream": "true"}
        if following.last_number >= 0:
            params["starting_after"] = following.last_number
        path = f"/v1/responses/{following.response_id}"
        request = client.build_request("GET", path, params=params)
    response = await client.send(request, stream=True)
    try:
        if response.status_code != 200:
            text = (await response.aread()).decode()
            if response.status_code in (429, 503):
                raise Interrupted(text)
            raise Disagreement(f"{response.status_code} {text}")
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                yield json.loads(line.removeprefix("data: "))
    finally:
        await response.aclose()


async def socket_events(
    following: Following, client: httpx.AsyncClient
) -> AsyncGenerator[dict[str, Any], None]:
    url = str(client.base_url).replace("http", "ws", 1)
    # A client that hangs up in the middle stops reading, so it never sees the closing handshake.
    async with connect(
        f"{url}/v1/responses", compression=None, close_timeout=0.1, max_queue=None
    ) as socket:
        if following.response_id is None:
            message = following.body | {"type": "response.create"}
            message["idempotency_key"] = following.key
        else:
            message = {"type": "response.resume", "response_id": following.response_id}
            if following.last_number >= 0:
                message["starting_after"] = following.last_number
        await socket.send(json.dumps(message))
        async for text in socket:
            event = json.loads(text)
            if event["type"] == "error" and event["status"] not in (429, 500, 503):
                raise Disagreement(text)
            yield event
