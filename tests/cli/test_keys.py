"""`llamastream keys`: makes, shows and takes back keys in a file that a server reads."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llamastream.cli.keys import keys
from llamastream.errors import ConfigError
from llamastream.keys import Keys, Limits


def run(*arguments: str, file: Path) -> str:
    result = CliRunner().invoke(
        keys, [*arguments, "--api-keys-file", str(file)], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    return result.output.strip()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "etc" / "keys.toml"


def test_a_key_that_was_added_is_known_by_its_name(file: Path) -> None:
    key = run("add", "alice", "--admin", "--max-requests", "3", file=file)
    found = Keys(path=file).find(key)
    assert found is not None
    assert (found.name, found.is_admin, found.limits) == ("alice", True, Limits(max_requests=3))


def test_the_file_holds_no_key_and_is_its_owners(file: Path) -> None:
    key = run("add", "alice", file=file)
    file.chmod(0o644)
    run("add", "bob", file=file)
    assert key not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert {path.name for path in file.parent.iterdir()} <= {"keys.toml", "keys.toml.lock"}


def test_what_a_person_wrote_stays(file: Path) -> None:
    run("add", "alice", file=file)
    file.write_text(file.read_text() + "# Bob's is on paper.\n")
    run("add", "bob", file=file)
    run("revoke", "bob", file=file)
    assert "# Bob's is on paper." in file.read_text()
    assert [line.split()[0] for line in run("list", file=file).splitlines()[1:]] == ["alice"]


def test_a_revoked_key_is_unknown_and_the_others_stay(file: Path) -> None:
    made = {name: run("add", name, file=file) for name in ("alice", "bob", "carol")}
    run("revoke", "bob", file=file)
    found = Keys(path=file)
    assert [name for name, key in made.items() if found.find(key)] == ["alice", "carol"]


def test_the_last_key_can_be_revoked_and_lets_nobody_in(file: Path) -> None:
    key = run("add", "alice", file=file)
    run("revoke", "alice", file=file)
    found = Keys(path=file)
    assert found.find(key) is None and found.are_required


def test_a_successor_opens_what_the_old_key_did(file: Path) -> None:
    old = run("add", "alice", file=file)
    new = run("add", "alice-2", "--same-as", "alice", file=file)
    run("revoke", "alice", file=file)
    found = Keys(path=file)
    assert found.find(old) is None
    key = found.find(new)
    assert key is not None and key.scope in run("list", file=file)


def test_keys_added_at_the_same_time_are_all_there(file: Path) -> None:
    command = [sys.executable, "-m", "llamastream", "keys", "add", "--api-keys-file", str(file)]
    adding = [
        subprocess.Popen([*command, f"k{number}"], stdout=subprocess.PIPE, text=True)
        for number in range(5)
    ]
    made = [process.communicate()[0].strip() for process in adding]
    found = Keys(path=file)
    assert all(found.find(key) for key in made)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("add", "alice"), "unique"),
        (("add", "a b"), "name"),
        (("add", "x", "--same-as", "nobody"), "no key named nobody"),
        (("revoke", "nobody"), "Known: alice"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    file: Path, arguments: tuple[str, ...], problem: str
) -> None:
    run("add", "alice", file=file)
    before = file.read_text()
    with pytest.raises(ConfigError, match=problem):
        run(*arguments, file=file)
    assert file.read_text() == before


def test_a_file_in_another_style_is_left_alone(file: Path) -> None:
    file.parent.mkdir()
    text = f'keys = [{{name = "alice", sha256 = "{"0" * 64}"}}]\n'
    file.write_text(text)
    for arguments in (("revoke", "alice"), ("add", "bob")):
        with pytest.raises(ConfigError):
            run(*arguments, file=file)
    assert file.read_text() == text


def test_without_a_file_the_command_says_which_option_is_missing() -> None:
    with pytest.raises(ConfigError, match="--api-keys-file"):
        CliRunner().invoke(keys, ["list"], catch_exceptions=False)
