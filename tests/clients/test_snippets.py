"""Each block of Python in docs/tools.md is run, and tells what the model was told to say."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("langchain_tests", reason="needs the clients' environment")

from tests.clients.snippets import snippet

QUESTION = "How is the weather in Oslo?"
SCRIPT = r"call weather {\"city\": \"Oslo\"}\nsay It is cold."


@pytest.mark.parametrize("word", ["ChatOpenAI", "pydantic_ai", "import agents", "client = OpenAI("])
def test_a_snippet_runs_a_loop(base_url: str, tmp_path: Path, word: str) -> None:
    text = snippet(word)
    assert QUESTION in text
    file = tmp_path / "snippet.py"
    file.write_text(text.replace(QUESTION, SCRIPT).replace("http://127.0.0.1:8000", base_url))
    done = subprocess.run([sys.executable, file], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "It is cold." in done.stdout
