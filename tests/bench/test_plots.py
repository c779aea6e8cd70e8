"""The pictures of an online run."""

import sys
from pathlib import Path

import pytest
from reports import report

from llamastream.bench.errors import BenchError
from llamastream.bench.plots import draw

pytest.importorskip("matplotlib", reason="plots need the extra `bench`")

SPEEDS = {
    "ours": ((200, 220), (900, 880), (1800, 1700)),
    "theirs": ((100, 110), (300, 300), (500, 480)),
}


def size(path: Path) -> tuple[int, int]:
    """Width and height of a PNG, from its header."""
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def test_a_sweep_gives_two_pictures_in_a_new_folder(tmp_path: Path) -> None:
    paths = draw(report(SPEEDS), tmp_path / "new" / "plots")
    assert [path.name for path in paths] == ["throughput.png", "latency.png"]
    assert size(paths[0]) == (1080, 630)
    assert size(paths[1]) == (1080, 840)


def test_pictures_hold_the_medians_of_each_server(tmp_path: Path) -> None:
    first = draw(report(SPEEDS), tmp_path / "a")[0].read_bytes()
    slower = {**SPEEDS, "theirs": ((50, 50), (50, 50), (50, 50))}
    assert draw(report(SPEEDS), tmp_path / "b")[0].read_bytes() == first
    assert draw(report(slower), tmp_path / "c")[0].read_bytes() != first


def test_plots_need_their_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(BenchError, match=r"pip install 'llamastream\[bench\]'"):
        draw(report(SPEEDS), tmp_path)


def test_server_that_failed_everywhere_is_left_out(tmp_path: Path) -> None:
    document = report(SPEEDS)
    for cell in document.cells:
        if cell.server == "theirs":
            cell.error = "died"
    assert len(draw(document, tmp_path)) == 2
    for cell in document.cells:
        cell.error = "died"
    assert draw(document, tmp_path) == []


def test_chunks_that_arrive_together_are_drawn_too(tmp_path: Path) -> None:
    document = report(SPEEDS)
    for cell in document.cells:
        for summary in cell.rounds:
            summary.values.update(dict.fromkeys(("itl_ms.p50", "itl_ms.p99"), 0.0))
    assert len(draw(document, tmp_path)) == 2


def test_a_single_concurrency_makes_no_line(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="at least two values of concurrency"):
        draw(report({"a": ((1,),)}, (8,)), tmp_path)
