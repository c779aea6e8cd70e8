"""docs/cluster.md promises nothing that no test and no scenario of the soak holds."""

import re
from pathlib import Path

import pytest

from tests.soak.__main__ import SCENARIOS

ROOT = Path(__file__).parent.parent
ROWS = re.findall(r"^\| (G\d+) \|(.*)$", (ROOT / "docs" / "cluster.md").read_text(), re.MULTILINE)


def test_there_are_twelve() -> None:
    assert [name for name, _ in ROWS] == [f"G{number}" for number in range(1, 13)]


@pytest.mark.parametrize(("name", "row"), ROWS, ids=[name for name, _ in ROWS])
def test_each_promise_names_what_holds_it(name: str, row: str) -> None:
    scenarios, tests = re.findall(r"SCENARIO=([\w-]+)", row), re.findall(r"`(test_\w+)`", row)
    assert scenarios or tests
    assert {*scenarios} <= SCENARIOS.keys()
    files = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    for test in tests:
        assert any(f"def {test}(" in text for text in files), f"{name}: there is no {test}"
