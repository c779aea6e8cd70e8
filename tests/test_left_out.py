"""The end of a test run says what was left out, and by which command it comes in."""

import re
from pathlib import Path

import pytest

from tests.conftest import GROUPS, OTHER, group_of, left_out

HERE = Path(__file__).parent
# Everything that a test says when it skips: skipif(..., reason="..."), pytest.skip("...").
REASON = re.compile(r"(?:reason=f?|pytest\.skip\(\s*f?)\"([^\"]+)\"")


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("nginx or openssl is missing", "nginx"),
        ("needs g++ for aarch64 and qemu-user", "qemu-user"),
        ("no PostgreSQL server on this machine (initdb not found)", "postgresql"),
        ("jina's environment is not built: run `make test-jina`", "make test-jina"),
        ("needs a CUDA device", "make test-gpu"),
        ("needs a browser: none of chromium is installed", "chromium"),
    ],
)
def test_each_group_has_its_command(reason: str, command: str) -> None:
    (line,) = left_out([reason, reason])
    assert "2 skipped" in line
    assert line.endswith(group_of(reason).command)
    assert command in line


def test_groups_are_told_apart() -> None:
    lines = left_out(["nginx or openssl is missing", "something new"])
    assert [line.partition(":")[0] for line in lines] == ["nginx", OTHER.name]


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: f"{group.name}, {group.command}")
def test_some_test_still_gives_each_groups_reason(group: tuple[str, str, str]) -> None:
    """A reason that was worded anew would leave its group without a command."""
    sources = [path.read_text() for path in HERE.rglob("*.py") if path != Path(__file__)]
    reasons = [reason for source in sources for reason in REASON.findall(source)]
    reasons += re.findall(r"^NEEDED = \"(.+)\"", "\n".join(sources), re.MULTILINE)
    assert any(re.search(group[1], reason) for reason in reasons)
