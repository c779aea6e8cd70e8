"""Engines whose blocks are kept in a folder, and what can befall its files."""

import errno
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from driver import Outcome, make_request, run_all
from make_runners import RUNNERS

from llamastream.config import EngineConfig
from llamastream.engine.block_files import BlockFiles, Bytes
from llamastream.engine.disk_cache import DiskCache
from llamastream.engine.llm_engine import LLMEngine
from llamastream.types import GenerationRequest

BLOCK_SIZE, MAX_MODEL_LEN = 16, 128
PLENTY = 2**30


@contextmanager
def disk_engine(
    folder: Path,
    *,
    kind: str = "cpu-int8",
    max_bytes: int = PLENTY,
    model_id: str = "model",
    files: type[BlockFiles] = BlockFiles,
    num_blocks: int = 64,
) -> Iterator[tuple[LLMEngine, DiskCache]]:
    """Closed at the end, when all is written."""
    disk = DiskCache(files.open(folder, max_bytes), model_id)
    runner = RUNNERS[kind](
        num_blocks=num_blocks, block_size=BLOCK_SIZE, max_model_len=MAX_MODEL_LEN
    )
    engine = LLMEngine(runner, EngineConfig(block_size=BLOCK_SIZE), disk=disk)
    try:
        yield engine, disk
    finally:
        engine.close()


def prompt(number: int, length: int = 70) -> list[int]:
    return [(7 * number + k * (k + 3)) % 61 for k in range(length)]


def stored(
    disk: DiskCache, request: GenerationRequest, name: str | None = None
) -> GenerationRequest:
    """One whose answer is stored, in the conversation `name` or alone."""
    owner = disk.owner(name or request.request_id, request.request_id)
    assert owner is not None
    owner.confirm()
    return replace(request, owner=owner)


def requests(numbers: Sequence[int], **options: object) -> list[GenerationRequest]:
    return [
        make_request(f"resp_{number}", prompt(number), max_tokens=30, **options)  # type: ignore[arg-type]
        for number in numbers
    ]


def answers(outcomes: dict[str, Outcome]) -> dict[str, list[int]]:
    return {id: outcome.token_ids for id, outcome in outcomes.items()}


def expected(numbers: Sequence[int], kind: str = "cpu-int8") -> dict[str, list[int]]:
    """What they are without any disk."""
    runner = RUNNERS[kind](num_blocks=64, block_size=BLOCK_SIZE, max_model_len=MAX_MODEL_LEN)
    engine = LLMEngine(runner, EngineConfig(block_size=BLOCK_SIZE, enable_prefix_caching=False))
    return answers(run_all(engine, requests(numbers)))


def keep(folder: Path, numbers: Sequence[int], **options: object) -> dict[str, list[int]]:
    """Have these answered and kept by an engine of their own."""
    with disk_engine(folder, **options) as (engine, disk):  # type: ignore[arg-type]
        return answers(run_all(engine, [stored(disk, one) for one in requests(numbers)]))


def failing(number: int) -> type[BlockFiles]:
    """Files on a disk that fails to write, with this error."""

    class FailingFiles(BlockFiles):
        def _store(self, path: Path, data: Bytes) -> int:
            raise OSError(number, os.strerror(number))

    return FailingFiles


FULL, READ_ONLY = failing(errno.ENOSPC), failing(errno.EROFS)


def held_up(gate: threading.Event, on_read: Callable[[], None]) -> type[BlockFiles]:
    """Files that are read once the gate is open."""

    class SlowFiles(BlockFiles):
        def read(self, name: str, into: Bytes) -> bool:
            on_read()
            assert gate.wait(60)
            return super().read(name, into)

    return SlowFiles
