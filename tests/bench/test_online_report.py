"""What a person and a program read of an online run."""

import json

from reports import report, summary
from rich.console import Console

from llamastream.bench.online import OnlineReport
from llamastream.bench.online_report import render, to_json

SPEEDS = {"ours": ((200, 220, 210), (900, 880, 890)), "theirs": ((100, 110, 105), (300, 300, 290))}


def shown(document: OnlineReport) -> list[str]:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(render(document))
    return capture.get().splitlines()


def row(lines: list[str], *starts: str) -> list[str]:
    """The first line that begins with these words, as words."""
    words = [line.split() for line in lines]
    return next(w for w in words if w[: len(starts)] == list(starts))


def test_table_shows_medians_with_their_range() -> None:
    lines = shown(report(SPEEDS, (1, 8)))
    assert row(lines, "1", "stream", "ours")[3:5] == ["210", "(200-220)"]
    assert row(lines, "8", "streams", "theirs")[3:5] == ["300", "(290-300)"]


def test_table_shows_the_ratio_of_the_first_server_over_the_other() -> None:
    lines = shown(report(SPEEDS, (1, 8)))
    start = next(n for n, line in enumerate(lines) if line.startswith("ours over the others"))
    assert row(lines[start:], "8", "streams", "theirs")[3:5] == ["3.00", "(2.93-3.07)"]


def test_one_server_has_no_ratios() -> None:
    assert not any("over the others" in line for line in shown(report({"a": ((1,), (2,))}, (1, 8))))


def test_failed_cell_shows_no_number_and_says_why() -> None:
    document = report(SPEEDS, (1, 8))
    cell = document.cells[-1]
    cell.rounds.clear()
    cell.error = "1 of 8 requests failed: it broke off"
    lines = shown(document)
    assert set(row(lines, "8", "streams", "theirs")[3:]) == {"failed"}
    assert "theirs, 8 streams: 1 of 8 requests failed: it broke off" in lines


def test_a_cell_that_failed_in_a_later_round_shows_no_number_either() -> None:
    document = report(SPEEDS, (1, 8))
    document.cells[-1].error = "died"
    assert set(row(shown(document), "8", "streams", "theirs")[3:]) == {"failed"}
    assert json.loads(to_json(document))["cells"][-1]["median"] == {}


def test_counting_by_chunks_and_short_answers_are_said() -> None:
    document = report(SPEEDS, (1, 8))
    document.cells[0].rounds[0] = summary(200, counted_by="chunks", num_short=2)
    lines = shown(document)
    assert "ours reports no usage: its tokens are counted by chunks of text." in lines
    assert "ours ended 2 of 24 answers before the length asked for." in lines
    assert not any(line.startswith("theirs reports no usage") for line in lines)
    bounds = "All cores read 50 (40-60) GB/s of memory and do 1,900 (1,800-2,000) G operations/s"
    assert any(line.startswith(bounds) for line in lines)


def test_json_is_one_line_that_holds_every_round() -> None:
    text = to_json(report(SPEEDS, (1, 8)))
    assert "\n" not in text
    document = json.loads(text)
    cell = document["cells"][0]
    assert (cell["server"], cell["workload"]["concurrency"]) == ("ours", 1)
    assert [round_["output_tok_s"] for round_ in cell["rounds"]] == [200, 220, 210]
    assert cell["median"]["output_tok_s"] == 210
    assert "prefill_tok_s" not in cell["median"]
    ratio = next(r for r in document["ratios"] if r["workload"] == "8 streams")
    assert (ratio["metric"], ratio["over"], ratio["median"]) == ("output_tok_s", "theirs", 3.0)
    assert document["bounds"][0] == {"bytes_per_s": 40e9, "ops_per_s": 2e12}


def test_json_keeps_no_key() -> None:
    document = report(SPEEDS, (1, 8))
    assert "api_key" not in to_json(document)
