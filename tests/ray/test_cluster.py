"""The demonstration is true: a stream goes on, bit for bit, when its replica is killed."""

from pathlib import Path

import pytest

pytest.importorskip("ray", reason="needs Ray's environment")

from llamastream.settings import default_data_dir
from tests.doubles.postgres import find_postgres

needs_postgres = pytest.mark.skipif(find_postgres() is None, reason="needs a PostgreSQL server")


@needs_postgres
@pytest.mark.demo
@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of Ray's own
def test_a_stream_outlives_its_replica(capsys: pytest.CaptureFixture[str]) -> None:
    from tests.ray.demo import demo  # it starts Ray's settings for all that import it

    data_dir: Path = default_data_dir()
    demo(data_dir)
    said = capsys.readouterr().out
    assert "kill -9" in said and "the same, character for character" in said
