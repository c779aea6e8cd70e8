"""The runners that every property of the engine is tested with."""

from dataclasses import dataclass, replace
from typing import Protocol

from ahead_runner import AheadRunner
from fake_runner import FakeRunner
from tiny_llama import random_tensors, tiny_config

from llamastream.config import DType, EngineConfig, LlamaConfig
from llamastream.engine.cpu_runner import CpuRunner, block_bytes
from llamastream.engine.reference import ReferenceRunner
from llamastream.engine.runner import Runner

CONFIG = tiny_config(intermediate_size=64)  # all widths fit the 8-bit groups


class MakeRunner(Protocol):
    """Makes runners of one kind that compute the same model, with caches of any size."""

    block_sizes: tuple[int, ...]  # smallest first

    def __call__(
        self, *, num_blocks: int, block_size: int, max_model_len: int, threads: int = 2
    ) -> Runner: ...


class MakeFake:
    block_sizes = (1, 3, 4, 16)

    def __call__(
        self, *, num_blocks: int, block_size: int, max_model_len: int, threads: int = 2
    ) -> Runner:
        return FakeRunner(num_blocks=num_blocks, block_size=block_size, max_model_len=max_model_len)


class MakeReference:
    block_sizes = (1, 3, 4, 16)

    def __call__(
        self, *, num_blocks: int, block_size: int, max_model_len: int, threads: int = 2
    ) -> Runner:
        return ReferenceRunner(
            CONFIG,
            random_tensors(CONFIG),
            num_blocks=num_blocks,
            block_size=block_size,
            max_model_len=max_model_len,
        )


@dataclass(frozen=True)
class MakeCpu:
    dtype: DType
    config: LlamaConfig = CONFIG
    block_sizes: tuple[int, ...] = (16, 32)

    def __call__(
        self, *, num_blocks: int, block_size: int, max_model_len: int, threads: int = 2
    ) -> Runner:
        engine = EngineConfig(
            dtype=self.dtype,
            block_size=block_size,
            max_model_len=max_model_len,
            max_num_seqs=64,
            threads=threads,
        )
        engine = replace(engine, kv_cache_bytes=num_blocks * block_bytes(self.config, engine))
        runner = CpuRunner.load(self.config, engine, random_tensors(self.config).items)
        assert runner.num_blocks == num_blocks
        return runner


@dataclass(frozen=True)
class MakeAhead:
    inner: MakeRunner

    @property
    def block_sizes(self) -> tuple[int, ...]:
        return self.inner.block_sizes

    def __call__(
        self, *, num_blocks: int, block_size: int, max_model_len: int, threads: int = 2
    ) -> Runner:
        runner = self.inner(
            num_blocks=num_blocks,
            block_size=block_size,
            max_model_len=max_model_len,
            threads=threads,
        )
        return AheadRunner(runner)


RUNNERS: dict[str, MakeRunner] = {
    "fake": MakeFake(),
    "reference": MakeReference(),
    "cpu-int8": MakeCpu("int8"),
    "cpu-float32": MakeCpu("float32"),
    "fake, ahead": MakeAhead(MakeFake()),
    "cpu-int8, ahead": MakeAhead(MakeCpu("int8")),
}
