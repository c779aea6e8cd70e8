"""Ten rounds of the kill loop; `make soak` runs two hundred."""

from pathlib import Path

import pytest

from tests.soak.kill_loop import run
from tests.soak.server import MODEL

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MODEL.exists(), reason="../shared/data/stories260K is missing"),
]


async def test_readers_of_a_killed_server_lose_repeat_and_change_nothing(tmp_path: Path) -> None:
    figures = await run(10, seed=1, folder=tmp_path)
    assert figures.problems == []
    assert figures.kills + figures.terms >= 10
    assert figures.resumed > 0
