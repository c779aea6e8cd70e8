"""A process that writes until it is killed, and says what was confirmed."""

import asyncio
from multiprocessing.connection import Connection

from llamastream.records import Interrupted
from llamastream.store.store import Store
from tests.store.doubles import DONE, append, start, tokens

STREAMS = 8
LENGTH = 40  # tokens, after which a stream ends and another starts


def write_until_killed(url: str, generation: int, pipe: Connection) -> None:
    """Sends ("token", id, position) for each confirmed token, and ("done", id, LENGTH)."""
    asyncio.run(_write(url, generation, pipe))


async def _write(url: str, generation: int, pipe: Connection) -> None:
    store = await Store.open(url)
    interrupted = (await store.membership.recover()).interrupted
    await asyncio.gather(
        *(_go_on(store, one, pipe) for one in interrupted),
        *(_run(store, f"g{generation}-{k}", pipe) for k in range(STREAMS)),
    )


async def _go_on(store: Store, interrupted: Interrupted, pipe: Connection) -> None:
    await _stream(store, interrupted.response.id, len(interrupted.output_ids), pipe)


async def _run(store: Store, name: str, pipe: Connection) -> None:
    number = 0
    while True:
        id = f"{name}-{number}"
        await start(store, id)
        await _stream(store, id, 0, pipe)
        number += 1


async def _stream(store: Store, id: str, at: int, pipe: Connection) -> None:
    for position in range(at, LENGTH):
        assert await append(store, tokens(id, 0, position + 1)) == {}
        pipe.send(("token", id, position))
    await store.responses.finish(id, DONE)
    pipe.send(("done", id, LENGTH))
