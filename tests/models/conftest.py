from collections.abc import Callable
from pathlib import Path

import pytest
from tests.doubles.demo_model import demo_path

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def shared() -> Callable[[str], Path]:
    """The path of a file of the shared test data; skips the test where the data is missing."""

    def path(name: str) -> Path:
        if not (SHARED / name).exists():
            pytest.skip(f"needs ../shared/data/{name}")
        return SHARED / name

    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The demo model's GGUF file; skips the test where there is none."""
    return demo_path()


@pytest.fixture(scope="session")
def demo_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache shared by all tests of the demo model: reading its header takes 2 s."""
    return tmp_path_factory.mktemp("demo-cache")
