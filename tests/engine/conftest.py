"""Every property of the engine holds for every kind of runner."""

import pytest
from make_runners import RUNNERS, MakeRunner


@pytest.fixture(params=RUNNERS)
def make_runner(request: pytest.FixtureRequest) -> MakeRunner:
    return RUNNERS[request.param]
