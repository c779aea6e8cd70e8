"""The commands as a person runs them: in a process of their own, with pipes for a terminal."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.models.weights_builders import write_folder

from llamastream import __version__

SHARED = Path(__file__).parents[3] / "shared" / "data"
STORIES = str(SHARED / "stories260K")

needs_stories = pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    own = {name: os.environ[name] for name in os.environ if not name.startswith("LLAMASTREAM_")}
    return {**own, "LLAMASTREAM_DATA_DIR": str(tmp_path / "data"), "COLUMNS": "100"}


def run(
    environment: dict[str, str], *arguments: str, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llamastream", *arguments]
    return subprocess.run(
        command, env=environment, input=stdin, capture_output=True, text=True, timeout=120
    )


@contextmanager
def serving(environment: dict[str, str], *arguments: str) -> Iterator[str]:
    """A server on a free port; yields its address once it says that it is ready."""
    command = [sys.executable, "-m", "llamastream", "serve", "--port", "0", *arguments]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert " is ready on http://" in line
        yield line.split()[-1].removesuffix("/v1")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        process.stdout.close()


def assert_one_line(result: subprocess.CompletedProcess[str], words: str) -> None:
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1 and words in result.stderr
    assert result.stdout == ""


def test_a_port_in_use_is_one_line_and_exit_code_2(environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        assert_one_line(run(environment, "serve", "--port", port), f"port {port}")


def test_a_public_address_without_a_key_is_refused(environment: dict[str, str]) -> None:
    assert_one_line(run(environment, "serve", "--host", "0.0.0.0"), "--api-key")


@pytest.mark.parametrize(
    ("config", "words"), [(None, "config.json"), ("{", "not valid JSON"), ("[]", "JSON object")]
)
def test_an_unreadable_model_folder_is_one_line_and_exit_code_2(
    environment: dict[str, str], tmp_path: Path, config: str | None, words: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    if config is not None:
        (folder / "config.json").write_text(config)
    assert_one_line(run(environment, "serve", "--port", "0", "--model", str(folder)), words)


@needs_stories
def test_weights_that_cannot_be_run_end_the_server_with_one_line(
    environment: dict[str, str],
) -> None:
    """The error is met while loading, after the port was taken: stories260K has no rows of 32."""
    result = run(environment, "serve", "--port", "0", "--model", STORIES, "--log-level", "error")
    assert_one_line(result, "--dtype float32")


@needs_stories
def test_a_failure_after_loading_ends_with_its_line(environment: dict[str, str]) -> None:
    """The core's types once complained on stderr of what the error's frames had kept."""
    model = ("--model", STORIES, "--dtype", "float32", "--log-level", "error")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run(environment, "serve", "--port", "0", *model, "--grpc-port", str(port))
    packing, last = result.stderr.splitlines()
    assert result.returncode == 2 and "Packing" in packing
    assert last.startswith("llamastream: ") and str(port) in last


@needs_stories
def test_a_cache_that_does_not_fit_is_refused_before_weights_are_packed(
    environment: dict[str, str],
) -> None:
    model = ("--model", STORIES, "--dtype", "float32", "--log-level", "error")
    result = run(environment, "serve", "--port", "0", *model, "--kv-cache-gib", "1e-6")
    (last,) = result.stderr.splitlines()
    assert result.returncode == 2 and last.startswith("llamastream: max_model_len 512 needs ")
    assert last.endswith("the limit is 1073. Raise --kv-cache-gib.")


@needs_stories
def test_generate_goes_on_with_a_text(environment: dict[str, str]) -> None:
    result = run(
        environment,
        *("generate", "One day, Tim", "--model", STORIES, "--dtype", "float32"),
        *("--temperature", "0", "--max-tokens", "12"),
    )
    assert result.stdout == "One day, Tim and his mom went to the park. They\n"
    assert result.returncode == 0


@needs_stories
def test_chat_keeps_the_conversation_and_knows_its_commands(environment: dict[str, str]) -> None:
    lines = ["Once upon a time", "/again", "/help", "/new", "/exit"]
    result = run(
        environment,
        *("chat", "--model", STORIES, "--dtype", "float32", "--chat-template", "llama2"),
        *("--temperature", "0", "--max-tokens", "8"),
        stdin="\n".join(lines),
    )
    assert result.returncode == 0, result.stderr
    answers = [part.strip() for part in result.stdout.split("> ")]
    assert answers[1] and answers[1] == answers[2], "the same question has the same greedy answer"
    assert "Ctrl-C stops an answer" in answers[3]


@needs_stories
def test_chat_talks_to_a_running_server(environment: dict[str, str]) -> None:
    model = ("--model", STORIES, "--dtype", "float32", "--chat-template", "llama2")
    options = ("--temperature", "0", "--max-tokens", "8")
    with serving(environment, *model) as url:
        with urllib.request.urlopen(f"{url}/health") as health:
            assert health.status == 200
        remote = run(environment, "chat", "--url", url, *options, stdin="Once upon a time")
    local = run(environment, "chat", *model, *options, stdin="Once upon a time")
    assert remote.returncode == local.returncode == 0
    assert remote.stdout == local.stdout


def test_the_version_needs_no_command(environment: dict[str, str]) -> None:
    result = run(environment, "--version")
    assert (result.returncode, result.stdout) == (0, f"llamastream {__version__}\n")


def test_help_lists_every_command_and_each_has_help(environment: dict[str, str]) -> None:
    overview = run(environment, "--help").stdout
    for name in ("serve", "chat", "generate", "models", "bench"):
        assert f" {name} " in overview
        assert "Usage: " in run(environment, name, "--help").stdout


@needs_stories
def test_show_and_list_describe_a_model(environment: dict[str, str]) -> None:
    shown = run(environment, "models", "show", STORIES).stdout
    assert "260,032" in shown and "512 tokens" in shown
    flat = " ".join(shown.split())
    # Its 172 inner columns make no groups; 5 layers, 4 heads, keys of 8 and values padded to 16
    # numbers of 4 bytes.
    assert "intermediate_size must be a multiple of 32 for --dtype int8. Given: 172." in flat
    assert "of weights (F32 1.1 MB), 1.9 kB of KV cache per token" in flat
    assert "answers end at" in flat and "</s> (2)" in flat
    exact = run(environment, "models", "show", STORIES, "--dtype", "float32").stdout
    assert re.search(r"memory \(float32\) +2\.0 MB at 512 tokens", exact)
    assert re.search(r"at most [\d,.]+ tokens/s of one stream: \d", exact)
    assert "temperature 1, where a request does not say" in flat
    assert "models pull demo" in run(environment, "models", "list").stdout


def test_show_tells_what_the_authors_recommend(environment: dict[str, str], tmp_path: Path) -> None:
    write_folder(tmp_path / "model")
    recommended = {"temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.1}
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps(recommended))
    shown = run(environment, "models", "show", str(tmp_path / "model")).stdout
    assert "temperature 0.6, top_p 0.9, repetition_penalty 1.1, where a request" in shown


@pytest.mark.parametrize(
    "flags", [["--model", "demo"], ["--dtype", "int4"], ["--no-prefix-caching"]]
)
def test_chat_with_a_server_takes_no_flag_of_a_model_of_its_own(
    environment: dict[str, str], flags: list[str]
) -> None:
    result = run(environment, "chat", "--url", "http://127.0.0.1:9", *flags)
    assert_one_line(result, f"{flags[0].replace('--no-', '--')} is for a model that is loaded here")


def test_chat_says_where_nothing_answers(environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    result = run(environment, "chat", "--url", f"http://127.0.0.1:{port}")
    assert_one_line(result, f"no chat server answers at http://127.0.0.1:{port}")
