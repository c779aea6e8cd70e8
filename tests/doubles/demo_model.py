"""The demo model's file, for tests that need the real thing."""

import os
from pathlib import Path

import pytest

from llamastream.models.demo import demo_file
from llamastream.settings import default_data_dir


def demo_path() -> Path:
    """Its GGUF file; skips the test where there is none."""
    given = os.environ.get("LLAMASTREAM_DEMO_GGUF")
    path = Path(given) if given else demo_file(default_data_dir() / "models")
    if not path.is_file():
        pytest.skip("needs the demo model: LLAMASTREAM_DEMO_GGUF, or fetched before")
    return path
