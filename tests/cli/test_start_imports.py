"""What a command imports before it does anything: every start waits for it."""

import subprocess
import sys

import pytest

# Each takes 10 ms or more and is needed later, by few, or beside the load of the weights.
LATER = {
    "sqlalchemy",
    "rich.console",
    "grpc",
    "httpx",
    "google.protobuf",
    "filelock",
    "gguf",
    "huggingface_hub.hf_api",
}


@pytest.mark.parametrize("command", ["serve", "generate"])
def test_a_start_waits_for_nothing_that_its_first_answer_does_not_need(command: str) -> None:
    code = f"import sys, llamastream.cli.{command}; print(*sorted({LATER} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
