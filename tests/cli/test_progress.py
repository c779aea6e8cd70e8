"""Progress on stderr where that is no terminal."""

import pytest

from llamastream.cli.progress import progress_bars


def test_what_comes_to_its_end_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars() as report:
        report("Packing weights", 50, 100)
        report("Packing weights", 100, 100)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Packing weights")


def test_what_fails_leaves_the_line_to_its_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError), progress_bars() as report:
        report("Packing weights", 50, 100)
        raise ValueError
    assert capsys.readouterr().err == ""
