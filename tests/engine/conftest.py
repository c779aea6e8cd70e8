"""The runners that every property of the engine is tested with."""

from collections.abc import Callable
from typing import Protocol

import pytest
from fake_runner import FakeRunner
from tiny_llama import random_tensors, tiny_config

from llamastream.engine.reference import ReferenceRunner
from llamastream.engine.runner import Runner


class MakeRunner(Protocol):
    """Makes runners of one kind that compute the same model, with caches of any size."""

    def __call__(self, *, num_blocks: int, block_size: int, max_model_len: int = 128) -> Runner: ...


def make_reference(*, num_blocks: int, block_size: int, max_model_len: int = 128) -> Runner:
    config = tiny_config()
    return ReferenceRunner(
        config,
        random_tensors(config),
        num_blocks=num_blocks,
        block_size=block_size,
        max_model_len=max_model_len,
    )


RUNNERS: dict[str, Callable[..., Runner]] = {"fake": FakeRunner, "reference": make_reference}


@pytest.fixture(params=RUNNERS)
def make_runner(request: pytest.FixtureRequest) -> MakeRunner:
    return RUNNERS[request.param]  # type: ignore[no-any-return]
