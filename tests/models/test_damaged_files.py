"""Damaged model files are refused by name, whatever is damaged. See `mutations` for many more."""

from pathlib import Path

import pytest
from tests.models.mutations import KINDS, PIECES, SETTINGS, SHAPE, TOKENIZER, damaged
from tests.models.weights_builders import random_tensors, write_folder

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


def test_weights_that_give_no_numbers_are_refused_before_anybody_asks(tmp_path: Path) -> None:
    # Each is well formed; the norm of zeros is zero over the root of zero.
    config = {**SHAPE, "vocab_size": len(PIECES) + 1, "rms_norm_eps": 1e-60}
    tensors = random_tensors(config)
    tensors["model.embed_tokens.weight"][:] = 0
    files = {"tokenizer.json": TOKENIZER, "tokenizer_config.json": SETTINGS}
    write_folder(tmp_path / "m", config=config, tensors=tensors, files=files)
    settings = ModelSettings(model=str(tmp_path / "m"), data_dir=tmp_path / "data", dtype="float32")
    with pytest.raises(ModelError, match="cannot compute: logits of row 0 are not finite"):
        load_runner(assemble(settings).checkpoint, settings, "cpu")


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
