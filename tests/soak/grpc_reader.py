"""A reader over gRPC that follows one stored stream to its end, whatever happens to its calls."""

import asyncio
import random
from typing import Any

import grpc

from llamastream.server.jina import wire
from tests.soak.reader import RETRY_S, Disagreement, Following

STREAM_DOC = "/jina.JinaSingleDocumentRequestRPC/stream_doc"
OPTIONS = (("grpc.use_local_subchannel_pool", 1),)  # no waiting for what other calls found dead
CONNECTION_FAULTS = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)


async def follow_documents(
    following: Following, where: str, rng: random.Random, *, leave_chance: float
) -> None:
    """Like `follow`. `where`: host and port."""
    following.documents = {} if following.documents is None else following.documents
    while following.status is None:
        following.num_connections += 1
        async with grpc.aio.insecure_channel(where, options=OPTIONS) as channel:
            try:
                await _read(following, channel, rng, leave_chance)
            except grpc.aio.AioRpcError as error:
                if error.code() not in CONNECTION_FAULTS:
                    raise Disagreement(f"{error.code()} {error.details()}") from None
                await asyncio.sleep(RETRY_S)


async def _read(
    following: Following, channel: grpc.aio.Channel, rng: random.Random, leave_chance: float
) -> None:
    call = channel.unary_stream(
        STREAM_DOC, response_deserializer=wire.SingleDocumentRequest.FromString
    )(_request(following), metadata=(("idempotency-key", following.key),))
    async for response in call:
        following.take_document(wire.document_fields(response.document))
        if rng.random() < leave_chance:
            call.cancel()
            return
    following.status = dict(await call.trailing_metadata())["finish-reason"]


def _request(following: Following) -> bytes:
    """Begin the stream, or go on behind the last document."""
    call = wire.SingleDocumentRequest()
    if following.response_id is None:
        body = following.body
        names = ("ignore_eos", "seed", "temperature")
        fields: dict[str, Any] = {name: body[name] for name in names}
        fields |= {"max_tokens": body["max_output_tokens"], "store": True}
        wire.set_fields(call.document, fields)
        turn = call.document.data["messages"].list.data.add().dict.data
        turn["role"].text, turn["content"].text = "user", body["input"]
    else:
        fields = {"stream_id": following.response_id, "starting_after": following.last_number}
        wire.set_fields(call.document, fields)
    return bytes(call.SerializeToString())
