"""docs/security.md promises nothing that no test holds."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "security.md").read_text()
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def promises() -> list[str]:
    """The rows of all tables headed `promise`, before what is not promised."""
    promised = PAGE.partition("## What is not promised")[0]
    tables = re.findall(r"^\| promise \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", promised, re.MULTILINE)
    return [row for table in tables for row in table.splitlines()]


def test_there_are_promises() -> None:
    assert len(promises()) >= 5
    assert "## What is not promised" in PAGE


@pytest.mark.parametrize("row", promises())
def test_each_promise_names_a_test_that_is_there(row: str) -> None:
    named = NAMED.findall(row)
    assert named, "a promise without a test"
    for path, name in named:
        functions = {
            node.name
            for node in ast.walk(ast.parse((ROOT / path).read_text()))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        assert name in functions, f"{path} has no {name}"
