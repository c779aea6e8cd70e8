"""Skipped without torch and triton, which the usual tests do not install: `make test-gpu` does."""

import sys
from pathlib import Path

import pytest
from gpu_runners import MakeGpuRunner, find_device, runner_maker

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "engine"))  # paged_steps, tiny_llama, driver, sampler_cases


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """NumPy, inside the interpreter, warns of what a device computes without a word."""
    for item in items:
        if HERE in item.path.parents:
            for kind in ("RuntimeWarning", "DeprecationWarning"):
                item.add_marker(pytest.mark.filterwarnings(f"ignore::{kind}"))


@pytest.fixture(scope="session")
def device() -> str:
    return find_device()


@pytest.fixture(scope="session")
def make_runner(device: str) -> MakeGpuRunner:
    return runner_maker(device)
