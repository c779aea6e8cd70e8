"""One `vllm serve`: whether it answers, what it serves, and streams of tokens from it.

Knows no request of ours but as a Sequence, and no other server.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum
from typing import NamedTuple

import httpx
import orjson
from pydantic import BaseModel

from llamastream.engine.remote import wire
from llamastream.engine.sequence import Sequence
from llamastream.errors import InvalidRequest

logger = logging.getLogger(__name__)

CHECK_TIMEOUT_S = 5.0  # a health check that takes longer has failed
# There is no limit for what is read: a prompt may wait its turn there. The health checks tell.
TIMEOUT = httpx.Timeout(CHECK_TIMEOUT_S, read=None)
NOT_OFFERED = {403, 404, 405}  # of a path that a server lacks, or was started without
REFUSED = {400, 413, 422}  # for what is in the request: any other replica would say the same


class Unavailable(Exception):
    """It cannot be reached, failed in the middle, or is not what it must be: why."""


class ReplicaState(Enum):
    UNKNOWN = "unknown"  # nobody has asked yet
    UP = "up"
    DOWN = "down"


class ProbeText(NamedTuple):
    """A text and its ids: what shows that a server has our model's tokenizer."""

    text: str
    token_ids: list[int]


class _Model(BaseModel):
    id: str
    max_model_len: int | None = None
    parent: str | None = None  # of an adapter


class _Models(BaseModel):
    data: list[_Model]


class _Tokens(BaseModel):
    tokens: list[int]


class Replica:
    """Belongs to one event loop."""

    def __init__(
        self,
        url: str,
        api_key: str | None,
        probe: ProbeText,
        check_timeout_s: float = CHECK_TIMEOUT_S,
    ) -> None:
        self.url = url
        self.state = ReplicaState.UNKNOWN
        self.max_model_len = 0  # known once it was up
        self.num_streams = 0
        self._probe = probe
        self._check_timeout_s = check_timeout_s
        self._reason = ""  # why it is down
        self._model = ""
        self._path = wire.GENERATE
        self._scopes: set[asyncio.Timeout] = set()  # of the streams that are open
        headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._client = httpx.AsyncClient(
            base_url=url, headers=headers, limits=limits, timeout=TIMEOUT
        )

    @property
    def is_up(self) -> bool:
        return self.state is ReplicaState.UP

    async def close(self) -> None:
        await self._client.aclose()

    async def check(self) -> None:
        """Ask whether it is well. Where it is not, its streams end by Unavailable at once."""
        try:
            async with asyncio.timeout(self._check_timeout_s):
                await self._ask("GET", "/health")
                if not self.is_up:
                    await self._meet()
        except TimeoutError:
            self._lose(f"no answer to a health check within {self._check_timeout_s:g} s")
        except Unavailable as error:
            self._lose(str(error))
        else:
            self._found()

    async def draw(self, seq: Sequence) -> AsyncGenerator[list[wire.Drawn]]:
        """What follows the tokens of `seq`, as it comes. Raises Unavailable when no more will, and
        InvalidRequest for what it refuses."""
        content = wire.body(seq, self._path, self._model)
        async with self._stream(content) as response:
            async for line in response.aiter_lines():
                data = line.removeprefix("data:").strip()
                if data == "[DONE]":
                    break
                if data and data != line:  # else a comment, or the end of an event
                    yield wire.read(data)
            raise Unavailable("it ended the stream before the answer was complete")

    @asynccontextmanager
    async def _stream(self, content: bytes) -> AsyncIterator[httpx.Response]:
        """Whatever goes wrong with it, or with the replica meanwhile, is Unavailable."""
        headers = {"content-type": "application/json"}
        self.num_streams += 1
        scope = asyncio.timeout(None)
        try:
            async with (
                scope,
                self._client.stream("POST", self._path, content=content, headers=headers) as reply,
            ):
                self._scopes.add(scope)
                if reply.status_code >= 400:
                    raise wire.refusal(reply.status_code, await reply.aread())
                yield reply
        except TimeoutError:
            raise Unavailable(self._reason) from None
        except wire.BadAnswer as error:
            raise _meaning(error) from None
        except (httpx.HTTPError, ValueError) as error:
            raise Unavailable(_words(error)) from error
        finally:
            self._scopes.discard(scope)
            self.num_streams -= 1

    def _found(self) -> None:
        if not self.is_up:
            self.state = ReplicaState.UP
            logger.info(
                "engine %s is up: model=%s max_model_len=%d, by %s",
                *(self.url, self._model, self.max_model_len, self._path),
            )

    def _lose(self, reason: str) -> None:
        """It is not asked for tokens until a check finds it well again."""
        if self.state is not ReplicaState.DOWN or reason != self._reason:
            logger.warning("engine %s is down: %s", self.url, reason)
        self.state, self._reason = ReplicaState.DOWN, reason
        for scope in self._scopes:
            scope.reschedule(asyncio.get_running_loop().time())

    async def _meet(self) -> None:
        """Learn what it serves and how it is asked. Raises Unavailable where that is not ours."""
        try:
            models = _Models.model_validate_json(await self._ask("GET", "/v1/models")).data
        except ValueError:
            models = []
        served = [model for model in models if model.parent is None and model.max_model_len]
        if not served:
            raise Unavailable("/v1/models names no model with a max_model_len")
        self._model, self.max_model_len = served[0].id, served[0].max_model_len or 0
        has_generate = await self._offered("POST", wire.GENERATE, b"{}") is not None
        self._path = wire.GENERATE if has_generate else wire.COMPLETIONS
        asked = {"model": self._model, "prompt": self._probe.text, "add_special_tokens": False}
        found = await self._offered("POST", "/tokenize", orjson.dumps(asked))
        if found is None:
            logger.warning("engine %s has no /tokenize: its model was not compared", self.url)
        elif _Tokens.model_validate_json(found).tokens != self._probe.token_ids:
            raise Unavailable(
                f"its model {self._model} has another tokenizer. Give that model's as --model"
            )

    async def _ask(self, method: str, path: str) -> bytes:
        found = await self._offered(method, path)
        if found is None:
            raise Unavailable(f"it has no {path}")
        return found

    async def _offered(self, method: str, path: str, content: bytes | None = None) -> bytes | None:
        """The body of its answer, None where it does not have the path. Raises Unavailable."""
        headers = {"content-type": "application/json"}
        try:
            reply = await self._client.request(method, path, content=content, headers=headers)
        except httpx.HTTPError as error:
            raise Unavailable(_words(error)) from error
        if reply.status_code in NOT_OFFERED:
            return None
        if reply.status_code >= 400 and reply.status_code not in REFUSED:
            raise _meaning(wire.refusal(reply.status_code, reply.content))
        return reply.content


def _meaning(error: wire.BadAnswer) -> InvalidRequest | Unavailable:
    if error.status in REFUSED:
        return InvalidRequest(f"The engine refused the request: {error}")
    if error.status == 401:
        return Unavailable("it wants another key: set --engine-api-key")
    return Unavailable(f"it answered {error.status}: {error}")


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
