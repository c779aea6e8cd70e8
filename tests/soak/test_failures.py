"""A real server that may not write any more, or whose journal lost its end."""

import asyncio
import random
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.waiting import until
from tests.soak.following import Following
from tests.soak.reader import Doors, follow
from tests.soak.rounds import uninterrupted
from tests.soak.server import MODEL, MODEL_NAME, Server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MODEL.exists(), reason="../shared/data/stories260K is missing"),
    pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of another process"),
]
TORN_BYTES = 20_000  # five pages
SPACE_BYTES = 64 * 1024  # left on the "disk": some twenty steps


def requests(count: int) -> list[dict[str, Any]]:
    return [
        {
            "model": MODEL_NAME,
            "input": f"Once upon a time {k}",
            "max_output_tokens": 400,
            "ignore_eos": True,
            "return_token_ids": True,
            "seed": k,
        }
        for k in range(count)
    ]


@asynccontextmanager
async def followed(server: Server) -> AsyncIterator[list[Following]]:
    """Eight readers of stored streams, who in the end have read what they would undisturbed."""
    await server.start()
    try:
        async with Doors(server.port, server.grpc_port) as doors:
            bodies = requests(8)
            expected = [one.token_ids for one in await uninterrupted(doors, bodies)]
            readers = [Following(body, f"key-{k}") for k, body in enumerate(bodies)]
            tasks = [asyncio.create_task(follow(reader, doors)) for reader in readers]
            async with asyncio.timeout(60):
                yield readers
                await asyncio.gather(*tasks)
        assert [reader.token_ids for reader in readers] == expected
    finally:
        await server.stop()


@pytest.mark.parametrize("on_failure", ["fail", "continue"])
async def test_a_full_disk_loses_repeats_and_changes_nothing(
    tmp_path: Path, on_failure: str
) -> None:
    server = Server(tmp_path, ("--on-store-failure", on_failure))
    async with followed(server) as readers:
        await _fill_disk_when_begun(server, readers)
        if on_failure == "fail":
            await until(lambda: all(reader.num_connections > 1 for reader in readers))
        else:
            await until(lambda: len(readers[0].token_ids) > 300)
        _limit(server, resource.RLIM_INFINITY)
    if on_failure == "continue":
        assert {reader.num_connections for reader in readers} == {1}
    assert "The database failed" in (tmp_path / "log").read_text()


async def test_a_torn_end_of_the_journal_is_drawn_again(tmp_path: Path) -> None:
    server = Server(tmp_path)
    async with followed(server) as readers:
        await until(lambda: all(len(reader.token_ids) > 100 for reader in readers))
        await server.stop()
        seen = [len(reader.token_ids) for reader in readers]
        assert min(seen) < 400
        _tear(tmp_path / "llamastream.db-wal")
        await server.start()
    assert server.num_resumed() == 8


def _tear(path: Path) -> None:
    """As a power cut may leave it: the last pages are noise."""
    content = bytearray(path.read_bytes())
    content[-TORN_BYTES:] = random.Random(0).randbytes(TORN_BYTES)
    path.write_bytes(content)


async def _fill_disk_when_begun(server: Server, readers: list[Following]) -> None:
    await until(lambda: all(reader.response_id for reader in readers))
    size = (server.folder / "llamastream.db-wal").stat().st_size
    _limit(server, size + SPACE_BYTES)


def _limit(server: Server, num_bytes: int) -> None:
    """The largest file that the server may write."""
    assert server.process is not None
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))
