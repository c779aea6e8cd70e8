"""Some rounds of each scenario of the soak; `make soak` plays them at length."""

from pathlib import Path

import pytest

from tests.doubles.disk import NotHere
from tests.soak.__main__ import SCENARIOS
from tests.soak.rounds import Figures
from tests.soak.server import MODEL

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MODEL.exists(), reason="../shared/data/stories260K is missing"),
]


async def played(name: str, rounds: int, folder: Path) -> Figures:
    """The figures of a scenario in which no reader lost, repeated or saw another token."""
    try:
        figures = await SCENARIOS[name][0](rounds, seed=1, folder=folder)
    except NotHere as reason:
        pytest.skip(str(reason))
    assert figures.problems == []
    return figures


async def test_a_killed_server(tmp_path: Path) -> None:
    figures = await played("kill", 10, tmp_path)
    assert figures.events["kills"] + figures.events["terms"] >= 10
    assert figures.resumed > 0


async def test_a_server_killed_as_it_fills_its_cache_on_disk(tmp_path: Path) -> None:
    figures = await played("cache", 4, tmp_path)
    assert figures.events["kills"] == 4 and figures.events["blocks"] > 0


async def test_readers_that_die(tmp_path: Path) -> None:
    figures = await played("reader", 1, tmp_path)
    assert figures.events["deaths"] > 0
    assert figures.connections > figures.readers


async def test_connections_cut_by_rst(tmp_path: Path) -> None:
    figures = await played("rst", 2, tmp_path)
    assert figures.events["resets"] > 0
    assert figures.connections > figures.readers


async def test_connections_that_fall_silent_are_given_up(tmp_path: Path) -> None:
    figures = await played("half-open", 3, tmp_path)
    assert figures.events["frozen"] > 0
    assert figures.connections > figures.readers


async def test_readers_at_one_byte_per_second(tmp_path: Path) -> None:
    figures = await played("slow", 1, tmp_path)
    assert figures.connections == figures.readers  # none was given up


@pytest.mark.parametrize("name", ["postgres", "hang", "disk"])
async def test_a_database_that_fails_and_comes_back(tmp_path: Path, name: str) -> None:
    figures = await played(name, 2, tmp_path)
    assert figures.events["kills"] == 2
    assert figures.resumed > 0


@pytest.mark.parametrize("name", ["takeover", "zombie"])
async def test_one_of_three_servers_that_dies_or_hangs(tmp_path: Path, name: str) -> None:
    # Whether one that hung was taken for dead depends on how often the others came to look.
    figures = await played(name, 1, tmp_path)
    assert figures.streams >= 32
