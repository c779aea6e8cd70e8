"""A client that follows one response to its end, whatever happens to its connections.

It checks what it is promised as it reads: event numbers without a hole and without a repetition.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

Transport = Literal["sse", "websocket", "grpc"]

RETRY_S = 0.05
TERMINAL = ("response.completed", "response.incomplete", "response.failed")


class Disagreement(Exception):
    """A promise was broken."""


class Interrupted(Exception):
    """The connection ended before the response did."""


@dataclass
class Following:
    """One reader's view of one response. `body` is that of the request that began it."""

    body: dict[str, Any]
    key: str  # Idempotency-Key
    response_id: str | None = None
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    documents: dict[int, int] | None = None  # over gRPC: number -> token id
    last_number: int = -1
    status: str | None = None
    num_connections: int = 0

    def take(self, event: dict[str, Any]) -> None:
        """Raises Disagreement for an event that is not the next one."""
        kind = event["type"]
        if kind == "error":
            raise Interrupted(event["error"]["message"])
        number = event["sequence_number"]
        if number == 0 and self.response_id is None:
            self.last_number = -1
        if number != self.last_number + 1:
            raise Disagreement(f"event {number} ({kind}) came after {self.last_number}")
        self.last_number = number
        if kind == "response.created":
            self.response_id = event["response"]["id"]
        elif kind == "response.output_text.delta":
            self.token_ids += event["token_ids"]
            self.text += event["delta"]
        elif kind in TERMINAL:
            self.status = event["response"]["status"]

    def take_document(self, document: dict[str, Any]) -> None:
        """Raises Disagreement for one that came before. A hole shows in the text alone: not every
        token has a document."""
        assert self.documents is not None
        number = document["sequence_number"]
        if number <= self.last_number:
            raise Disagreement(f"document {number} came after {self.last_number}")
        self.last_number = number
        self.response_id = document["stream_id"]
        self.documents[number] = document["token_id"]
        self.text += document["generated_text"]

    def difference(self, whole: "Following") -> str | None:
        """How this view differs from that of an uninterrupted reader of events."""
        if self.text != whole.text:
            return f"another text: {self.text!r} for {whole.text!r}"
        if self.documents is None:
            return _difference(self.token_ids, whole.token_ids)
        last = len(whole.token_ids) - 1  # text that the end released has the last token's id
        expected = {n: whole.token_ids[min(n, last)] for n in self.documents}
        return None if self.documents == expected else "a document has another token's id"


def _difference(seen: list[int], expected: list[int]) -> str | None:
    if seen == expected:
        return None
    pairs = enumerate(zip(seen, expected, strict=False))
    first = next((n for n, (a, b) in pairs if a != b), min(len(seen), len(expected)))
    return f"{len(seen)} ids for {len(expected)}, first difference at {first}"


async def follow(
    following: Following,
    client: httpx.AsyncClient,
    rng: random.Random,
    *,
    leave_chance: float,
    transport: Literal["sse", "websocket"] = "sse",
) -> None:
    """Read to the end. With `leave_chance` per event the reader hangs up and comes again."""
    events = sse_events if transport == "sse" else socket_events
    while following.status is None:
        following.num_connections += 1
        try:
            async with aclosing(events(following, client)) as stream:
                async for event in stream:
                    following.take(event)
                    if following.status is not None or rng.random() < leave_chance:
                        break
        except (httpx.TransportError, WebSocketException, OSError, Interrupted):
            await asyncio.sleep(RETRY_S)


async def sse_events(
    following: Following, client: httpx.AsyncClient
) -> AsyncIterator[dict[str, Any]]:
    """Begin the response, or go on behind the last event; raises Interrupted when refused."""
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
) -> AsyncIterator[dict[str, Any]]:
    """The same over a WebSocket of its own."""
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
