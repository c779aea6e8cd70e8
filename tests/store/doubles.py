"""Responses and tokens to store."""

import asyncio
from collections.abc import Sequence

from llamastream.records import Drawn, Item, NewResponse, News, Outcome, Status
from llamastream.sampling import SamplingParams
from llamastream.store.journal import Refused
from llamastream.store.store import Store
from llamastream.types import Token, TokenLogprob

SCOPE = "key-1"
DONE = Outcome(Status.COMPLETED, {"usage": {"output_tokens": 3}})


def a_response(id: str, **fields: object) -> NewResponse:
    values = {"request": {"model": "m"}, "prompt_ids": (1, 2), "sampling": SamplingParams(seed=7)}
    return NewResponse(id, **(values | fields))  # type: ignore[arg-type]


def items(*ids: str) -> tuple[Item, ...]:
    return tuple(Item(id, {"type": "message", "text": f"text of {id}"}) for id in ids)


def token_id(response_id: str, position: int) -> int:
    """A token that shows where it belongs."""
    return (hash_of(response_id) * 31 + position * 7) % 50_000


def hash_of(text: str) -> int:
    return int.from_bytes(text.encode()[-4:], "little")


def tokens(response_id: str, start: int, stop: int) -> list[Token]:
    return [Token(response_id, k, token_id(response_id, k)) for k in range(start, stop)]


class TokenLog:
    """A log of these tokens."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = tokens

    def drawn(self, start: int, end: int) -> tuple[list[int], list[TokenLogprob | None]]:
        tokens = self._tokens[start:end]
        logprobs = [_logprob(token) for token in tokens]
        return [token.token_id for token in tokens], logprobs if any(logprobs) else []


def _logprob(token: Token) -> TokenLogprob | None:
    if token.logprob is None:
        return None
    top = tuple(TokenLogprob(id, b"", logprob) for id, logprob in token.top_logprobs)
    return TokenLogprob(token.token_id, b"", token.logprob, top)


def append(store: Store, *drawn: Sequence[Token]) -> "asyncio.Future[Refused]":
    """A step after which each response has these tokens, from its first on."""
    return store.append([Drawn(t[0].request_id, TokenLog(t), len(t)) for t in drawn])


async def start(store: Store, *ids: str, scope: str = SCOPE, **fields: object) -> None:
    for id in ids:
        await store.responses.create(a_response(id, **fields), scope=scope)


async def run(store: Store, id: str, num_tokens: int = 3, **fields: object) -> None:
    """A whole response, from its start to its end."""
    output = fields.pop("output_items", ())
    await start(store, id, **fields)
    await append(store, tokens(id, 0, num_tokens))
    await store.responses.finish(id, Outcome(Status.COMPLETED, {}, output))  # type: ignore[arg-type]


async def looked(store: Store) -> News:
    """What a look at the other servers brings."""
    return await store.membership.heed(await store.membership.look())
