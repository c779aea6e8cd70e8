"""How an error gets past Jina's gateway, and a repeated call does not.

jina 3.34.0: an exception in an Executor ends the call with the status UNKNOWN.
`GrpcConnectionPool._handle_aiorpcerror` takes UNKNOWN, INTERNAL and CANCELLED for faults of the
network: the call is sent again, from its first token, and when the tries are used up the stream
ends as if all were well. What the gateway does pass on is an error inside a response. Jina's worker
makes one when an endpoint yields a document of a type other than its own, and names that type.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from docarray import BaseDoc
from docarray.typing import ID
from pydantic import ValidationError

from llamastream.errors import ChatError, InvalidRequest
from llamastream.jina.documents import invalid_field
from llamastream.schema import PromptDocument

RETRY_WINDOW_S = 10.0  # the gateway tries again at once


def error_document(error: ChatError) -> BaseDoc:
    """A document that reaches the client as `BadServer`, with the error's code and message.

    Jina shows nothing of it but the name of its class, so the message is the name.
    """
    document: BaseDoc = type(f"{error.code}: {error.message}", (BaseDoc,), {})()
    return document


class CallsInProgress:
    """Document ids whose answers were begun and not ended.

    A second call with such an id is a gateway's retry after a lost connection: the client has seen
    tokens of the first already.
    """

    def __init__(self) -> None:
        self._left_at: dict[str, float] = {}  # infinity while the call runs

    @contextmanager
    def only_once(self, document_id: str) -> Iterator[None]:
        """Around one call. Raises InvalidRequest for a repeated one."""
        now_s = time.monotonic()
        self._left_at = {k: t for k, t in self._left_at.items() if t > now_s - RETRY_WINDOW_S}
        if document_id in self._left_at:
            raise InvalidRequest(
                f"the answer to document {document_id} was broken off a moment ago, and its tokens "
                "are not sent twice. Send a new document."
            )
        self._left_at[document_id] = float("inf")
        try:
            yield
        except Exception:  # reported to the client: not to be retried
            del self._left_at[document_id]
            raise
        except BaseException:  # cancelled, or closed in the middle
            self._left_at[document_id] = time.monotonic()
            raise
        del self._left_at[document_id]


class LenientPromptDocument(PromptDocument):
    """A PromptDocument that is made whatever arrives: `fields` says what is wrong with it.

    An exception while Jina reads a document would be one that the gateway hides.
    """

    # A document's own value hides the class's: docarray has no private attributes of instances.
    _problem: ClassVar[InvalidRequest | None] = None

    @classmethod
    def from_protobuf(cls, pb_msg: Any) -> "LenientPromptDocument":
        try:
            return super().from_protobuf(pb_msg)
        except ValidationError as error:
            problem = invalid_field(error)
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # docarray's own
            problem = InvalidRequest(f"the document cannot be read: {error}")
        document = cls.model_construct(id=ID(pb_msg.data["id"].text))
        object.__setattr__(document, "_problem", problem)
        return document

    def fields(self) -> dict[str, object]:
        """The fields that were given. Raises InvalidRequest, if something was wrong with them."""
        if self._problem is not None:
            raise self._problem
        return {name: value for name, value in self if value is not None}
