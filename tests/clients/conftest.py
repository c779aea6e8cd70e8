"""Clients of others, unmodified, each against a server with a scripted model (`model.py`)."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Nothing that these clients send leaves this machine.
os.environ |= {"LANGSMITH_TRACING": "false", "OPENAI_AGENTS_DISABLE_TRACING": "1"}


@pytest.fixture(scope="session")
def base_url() -> Iterator[str]:
    """Of a server in the project's own environment."""
    python = os.environ.get("LLAMASTREAM_PYTHON", str(ROOT / ".venv/bin/python"))
    command = [python, "-m", "tests.clients.server"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.communicate(timeout=60)
