"""What the README tells people to type, typed: against a real server with the demo model."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llamastream.models.demo import demo_file
from llamastream.settings import default_data_dir

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"```(bash|python)\n(.*?)```", re.DOTALL)

pytestmark = [
    pytest.mark.demo,
    pytest.mark.skipif(
        not demo_file(default_data_dir() / "models").exists(),
        reason="needs the demo model: `make demo-model`",
    ),
]


def blocks(language: str, word: str) -> list[str]:
    found = [text for kind, text in BLOCK.findall(README.read_text()) if kind == language]
    return [text for text in found if word in text]


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    command = [sys.executable, "-m", "llamastream", "serve", "--port", "0", "--grpc-port", "0"]
    store = f"sqlite:///{tmp_path_factory.mktemp('store') / 'llamastream.db'}"
    environment = {**os.environ, "LLAMASTREAM_STORE": store}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split(":")[-1].split("/")[0]
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


@pytest.fixture
def run(port: str, tmp_path: Path) -> "Run":
    return Run(port, tmp_path)


class Run:
    """Runs a snippet with the server's port in place of 8000."""

    def __init__(self, port: str, folder: Path) -> None:
        self._port, self._folder = port, folder

    def __call__(self, command: list[str], text: str) -> str:
        text = text.replace("127.0.0.1:8000", f"127.0.0.1:{self._port}")
        file = self._folder / "snippet"
        file.write_text(text)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        result = subprocess.run(
            [*command, str(file)],
            env={**os.environ, "PATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout


def test_the_curl_line_streams_an_answer(run: Run) -> None:
    (snippet,) = blocks("bash", "curl -N")
    lines = run(["bash", "-e"], snippet).split("\n\n")
    assert lines[0].startswith('data: {"id":"chatcmpl-')
    assert '"finish_reason":"stop"' in lines[-3]
    assert lines[-2:] == ["data: [DONE]", ""]


def test_the_openai_client_prints_an_answer(run: Run) -> None:
    (snippet,) = blocks("python", "from openai import OpenAI")
    assert "Paris" in run([sys.executable], snippet)


def test_a_response_in_the_background_is_followed_to_its_end(run: Run) -> None:
    (snippet,) = blocks("python", "starting_after")
    assert len(run([sys.executable], snippet)) > 100


def test_the_terminal_commands_answer(run: Run) -> None:
    (snippet,) = blocks("bash", "llamastream generate")
    answer = run(["bash", "-e"], snippet)
    assert answer.startswith("Once upon a time") and len(answer) > 100
