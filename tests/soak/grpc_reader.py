"""The documents of one stored stream, over a gRPC channel of its own."""

from collections.abc import AsyncGenerator
from typing import Any

import grpc

from llamastream.jina import wire
from llamastream.jina.reading import document_fields
from tests.soak.following import Disagreement, Following, Interrupted

STREAM_DOC = "/jina.JinaSingleDocumentRequestRPC/stream_doc"
OPTIONS = (("grpc.use_local_subchannel_pool", 1),)  # no waiting for what other calls found dead
CONNECTION_FAULTS = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNKNOWN,  # a balancer that lost the server ends the stream without a status
)


async def grpc_events(following: Following, where: str) -> AsyncGenerator[dict[str, Any], None]:
    """A document per event, and then the end. `where`: host and port."""
    async with grpc.aio.insecure_channel(where, options=OPTIONS) as channel:
        call: Any = channel.unary_stream(
            STREAM_DOC, response_deserializer=wire.SingleDocumentRequest.FromString
        )(_request(following), metadata=(("idempotency-key", following.key),))
        try:
            async for response in call:
                yield {"type": "document"} | document_fields(response.document.SerializeToString())
            metadata = dict(await call.trailing_metadata())
        except grpc.aio.AioRpcError as error:
            if error.code() in CONNECTION_FAULTS:
                raise Interrupted(str(error.details())) from None
            raise Disagreement(f"{error.code()} {error.details()}") from None
        finally:
            call.cancel()
        yield {"type": "document.end", "status": metadata["finish-reason"]}


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
