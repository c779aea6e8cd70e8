"""Damaged model files are refused by name, whatever is damaged. See `mutations` for many more."""

from pathlib import Path

import pytest
from tests.models.mutations import KINDS, damaged

from llamastream.app import assemble, load_runner
from llamastream.config import ModelSettings
from llamastream.errors import ConfigError, ModelError

COUNT = 6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")  # of the libraries that read them
def test_a_damaged_file_is_refused_or_runs(kind: str, tmp_path: Path) -> None:
    outcomes = [outcome(kind, seed, tmp_path) for seed in range(COUNT)]
    assert all("\n" not in said for said in outcomes), outcomes
    assert any(outcomes), "nothing was refused"


def outcome(kind: str, seed: int, folder: Path) -> str:
    """What was said; nothing of a model that can be loaded."""
    model = damaged(kind, seed, folder)
    settings = ModelSettings(
        model=str(model.path), data_dir=folder / f"data-{seed}", dtype="float32", threads=1
    )
    try:
        load_runner(assemble(settings).checkpoint, settings, "cpu")
    except (ModelError, ConfigError) as error:
        return error.message
    return ""
