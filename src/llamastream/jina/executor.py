"""The article's Executor: one document in, one document per token out.

The invariant: a call's error reaches its client once, and no token is shown twice. Jina's gateway
breaks both by itself: it takes an exception for a lost connection, runs the call again from the
start, up to four times, and then reports success. See `errors` for the way around.
"""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import Any

from jina import Executor, requests

from llamastream.app import Assembly, assemble
from llamastream.config import DType, ModelSettings
from llamastream.errors import ChatError, InternalError
from llamastream.generation import Answers, NewAnswer
from llamastream.jina.documents import ENDPOINT, PromptRequest, check_not_stored
from llamastream.jina.errors import CallsInProgress, LenientPromptDocument, error_document
from llamastream.jina.format import Documents
from llamastream.schema import ModelOutputDocument

logger = logging.getLogger(__name__)


class TokenStreamingExecutor(Executor):  # type: ignore[misc]
    """All calls of one process share one engine.

    uses_with: `model` and `dtype` as in `llamastream serve`; `max_tokens`, for documents that name
    none; `options`, any other option of `llamastream serve` that concerns the model.
    """

    def __init__(
        self,
        model: str = "demo",
        dtype: DType = "int8",
        max_tokens: int = 256,
        options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Raises ModelError or a validation error, before the Deployment opens its port."""
        super().__init__(**kwargs)
        self._max_tokens = max_tokens
        self._calls = CallsInProgress()
        self._settings = ModelSettings(model=model, dtype=dtype, **(options or {}))
        # Jina makes its Executors inside the running event loop.
        self._starting = asyncio.ensure_future(self.start_service(self._settings))

    def start_service(self, settings: ModelSettings) -> Awaitable[Answers]:
        """A service once it takes requests. Raises ModelError at once, if it never will."""
        return _started(assemble(settings))

    # Jina reads the types of the documents off the annotations, so they say one, not an iterator.
    @requests(on=ENDPOINT)  # type: ignore[untyped-decorator]
    async def task(  # type: ignore[misc]
        self, doc: LenientPromptDocument, **_: object
    ) -> ModelOutputDocument:
        """Answer token by token. An error is a document of another type."""
        try:
            with self._calls.only_once(str(doc.id)):
                async for document in self._answer(doc):
                    yield document
        except ChatError as error:
            yield error_document(error)
        except Exception:
            logger.exception("the call failed")
            yield error_document(InternalError("internal error"))

    async def _answer(self, doc: LenientPromptDocument) -> AsyncIterator[ModelOutputDocument]:
        prompt = PromptRequest({"max_tokens": self._max_tokens} | doc.fields())
        check_not_stored(prompt.store_options())
        request = prompt.to_request()
        answers = await asyncio.shield(self._starting)
        wire = {"max_tokens": request.sampling.max_tokens}
        generation = await answers.open(request, NewAnswer(uuid.uuid4().hex, wire))
        documents = Documents(generation)
        with generation.follow() as reader:
            async for delta in reader:
                for fields in documents.of_delta(delta):
                    yield ModelOutputDocument.model_validate(fields)


async def _started(assembly: Assembly) -> Answers:
    await assembly.answers.start()
    await assembly.engine.ready()
    return assembly.answers
