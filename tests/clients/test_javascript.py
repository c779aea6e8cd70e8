"""The JavaScript clients, each by a script of its own in js/."""

import subprocess
from pathlib import Path

import pytest

pytest.importorskip("langchain_tests", reason="needs the clients' environment")

SCRIPTS = Path(__file__).parent / "js"


@pytest.mark.parametrize("name", ["openai", "anthropic", "ai_sdk"])
def test_a_script_runs_to_its_end(base_url: str, name: str) -> None:
    command = ["node", f"{name}.mjs", base_url]
    done = subprocess.run(command, cwd=SCRIPTS, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
