"""From a PromptDocument to its answer. Both of Jina's wires begin here.

An answer that is not stored ends when its reader leaves. One that is goes on without, and document
n of it is the same for every reader, now and after a restart.
"""

import uuid
from dataclasses import asdict

from llamastream.api.generate import begin
from llamastream.api.http.errors import check_id
from llamastream.api.http.idempotency import refuse_key
from llamastream.errors import EngineDead
from llamastream.generation import Answers, Generation, NewAnswer, StoredAnswers
from llamastream.jina.documents import PromptRequest, check_not_stored
from llamastream.jina.format import PREFIX, DocumentShown
from llamastream.jina.keys import Authorize, Keys, Refresh, no_refresh


class StreamService:
    def __init__(
        self,
        answers: Answers,
        authorize: Authorize,
        stored: StoredAnswers | None = None,
        refresh: Refresh = no_refresh,
    ) -> None:
        """Without `stored` nothing can be stored."""
        self.is_storing = stored is not None
        self._answers = answers
        self.keys = Keys(authorize, refresh)
        self._stored = stored

    def ready(self) -> bool:
        """For health checks and `is_flow_ready`: not without a database that was taken away."""
        is_lost = self._stored is not None and self._stored.is_lost
        return self._answers.is_ready() and not is_lost

    async def open(self, prompt: PromptRequest) -> tuple[Generation, int]:
        """The answer that is asked for, and the number of the last document that was seen of it."""
        options = prompt.store_options()
        if self._stored is None:
            check_not_stored(options)
        elif options.stream_id is not None:
            id = check_id(options.stream_id, PREFIX)
            generation = await _opened(self._stored).find(id, scope=prompt.scope)
            return generation, options.starting_after
        elif options.store:
            _opened(self._stored)
        if not options.store:
            refuse_key(prompt.idempotency_key)
        request = prompt.to_request()
        new = NewAnswer(
            PREFIX + uuid.uuid4().hex,
            asdict(DocumentShown(request.sampling.max_tokens)),
            store=options.store,
            idempotency=prompt.key() if options.store else None,
        )
        return await begin(self._answers, self._stored, request, new), options.starting_after

    async def delete(self, id: str, header: str | None) -> None:
        """Delete a stored answer for good, and end it if it is in progress."""
        scope = self.keys.require(header)
        assert self._stored is not None  # or there is no route
        await _opened(self._stored).delete(check_id(id, PREFIX), scope=scope)


def _opened(stored: StoredAnswers) -> StoredAnswers:
    """gRPC listens before the store is open, and until after it is closed."""
    if not stored.is_open:
        raise EngineDead("The store is not open. Try again in a few seconds.")
    return stored
