"""The runners that every property of the engine is tested with."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from fake_runner import FakeRunner
from tiny_llama import random_tensors, tiny_config

from llamastream.config import DType, EngineConfig
from llamastream.engine.cpu_runner import CpuRunner, block_bytes
from llamastream.engine.reference import ReferenceRunner
from llamastream.engine.runner import Runner


@dataclass(frozen=True)
class MakeRunner:
    """Makes runners of one kind that compute the same model, with caches of any size."""

    make: Callable[[int, int, int], Runner]
    block_sizes: tuple[int, ...]  # the ones worth trying, first the one for tests with one

    def __call__(
        self, *, num_blocks: int, block_size: int | None = None, max_model_len: int = 128
    ) -> Runner:
        return self.make(num_blocks, block_size or self.block_sizes[0], max_model_len)


def make_fake(num_blocks: int, block_size: int, max_model_len: int) -> Runner:
    return FakeRunner(num_blocks=num_blocks, block_size=block_size, max_model_len=max_model_len)


def make_reference(num_blocks: int, block_size: int, max_model_len: int) -> Runner:
    config = tiny_config()
    return ReferenceRunner(
        config,
        random_tensors(config),
        num_blocks=num_blocks,
        block_size=block_size,
        max_model_len=max_model_len,
    )


def make_cpu(dtype: DType) -> Callable[[int, int, int], Runner]:
    """The C++ core with 1 and 2 threads in turn: the number must not be seen in any result."""
    config = tiny_config(intermediate_size=64)  # 8 bits come in groups of 32
    threads = 1

    def make(num_blocks: int, block_size: int, max_model_len: int) -> Runner:
        nonlocal threads
        threads = 3 - threads
        engine = EngineConfig(
            dtype=dtype, block_size=block_size, max_model_len=max_model_len, threads=threads
        )
        engine = replace(engine, kv_cache_bytes=num_blocks * block_bytes(config, engine))
        runner = CpuRunner.load(config, engine, lambda: random_tensors(config).items())
        assert runner.num_blocks == num_blocks
        return runner

    return make


RUNNERS = {
    "fake": MakeRunner(make_fake, (4, 1, 3, 16)),
    "reference": MakeRunner(make_reference, (4, 1, 3, 16)),
    "cpu-float32": MakeRunner(make_cpu("float32"), (16, 32)),
    "cpu-int8": MakeRunner(make_cpu("int8"), (16, 32)),
}


@pytest.fixture(params=RUNNERS)
def make_runner(request: pytest.FixtureRequest) -> MakeRunner:
    return RUNNERS[request.param]
