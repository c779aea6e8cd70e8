"""Claude Code and Codex without a terminal, set up as docs/tools.md says."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langchain_tests", reason="needs the clients' environment")

from tests.clients.snippets import snippet

MODULES = Path(__file__).parent / "js/node_modules"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "notes.txt").write_text("the secret is 42\n")
    return tmp_path


def run(command: list[str], folder: Path, environment: dict[str, str]) -> list[dict[str, Any]]:
    """Its lines of JSON."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), **environment}
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_claude_code_runs_reads_and_edits(base_url: str, folder: Path) -> None:
    line = snippet("ANTHROPIC_BASE_URL").removeprefix("$ ").replace("NAME", "demo")
    *variables, program = line.replace("http://127.0.0.1:8000", base_url).split()
    assert program == "claude"
    asked = "\n".join(
        (
            "think I look first.",
            'call Bash {"command": "cp notes.txt copy.txt", "description": "copy"}',
            "then",
            f'call Read {{"file_path": "{folder}/notes.txt"}}',
            "then",
            f'call Edit {{"file_path": "{folder}/notes.txt", "old_string": "42", '
            '"new_string": "43"}',
            "say All done.",
        )
    )
    tools = ["--allowedTools", "Bash", "Read", "Edit"]
    claude = ["node", str(MODULES / "@anthropic-ai/claude-code/cli-wrapper.cjs"), "-p", asked]
    quiet = {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1"}
    environment = dict(pair.split("=", 1) for pair in variables) | quiet
    (result,) = run([*claude, *tools, "--output-format", "json"], folder, environment)
    assert (result["result"], result["num_turns"]) == ("All done.", 4)
    assert not result["permission_denials"]
    assert (folder / "copy.txt").read_text() == "the secret is 42\n"
    assert (folder / "notes.txt").read_text() == "the secret is 43\n"


def codex(base_url: str, folder: Path, asked: str) -> list[dict[str, Any]]:
    """The items of its turn."""
    home = folder / "codex"
    home.mkdir()
    config = snippet("wire_api").replace("http://127.0.0.1:8000", base_url)
    (home / "config.toml").write_text(config.replace("NAME", "demo"))
    options = ["--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "--json"]
    command = ["node", str(MODULES / "@openai/codex/bin/codex.js"), "exec", *options, asked]
    events = run(command, folder, {"CODEX_HOME": str(home)})
    assert events[-1]["type"] == "turn.completed"
    return [event["item"] for event in events if event["type"] == "item.completed"]


def test_codex_runs_a_command(base_url: str, folder: Path) -> None:
    call = 'call exec_command {"cmd": "cp notes.txt copy.txt; cat copy.txt"}'
    items = codex(base_url, folder, f"think I look.\n{call}\nsay All done.")
    (command,) = [item for item in items if item["type"] == "command_execution"]
    assert command["aggregated_output"] == "the secret is 42\n"
    assert items[-1]["text"] == "All done."
    assert (folder / "copy.txt").exists()


def test_codex_starts_an_agent_from_a_namespace(base_url: str, folder: Path) -> None:
    call = 'call multi_agent_v1:spawn_agent {"message": "say Hello from the other."}'
    items = codex(base_url, folder, f"{call}\nsay All done.")
    (spawned,) = [item for item in items if item["type"] == "collab_tool_call"]
    assert spawned["tool"] == "spawn_agent" and spawned["status"] == "completed"
    assert spawned["receiver_thread_ids"]
