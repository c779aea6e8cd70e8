"""`llamastream cache` on folders that servers made."""

import stat
from pathlib import Path

import numpy as np
import pytest
from tests.soak.server import MODEL
from typer.testing import CliRunner

from llamastream.app import assemble
from llamastream.cli.cache import cache
from llamastream.config import ModelSettings, StoreSettings
from llamastream.engine.block_files import BlockFiles
from llamastream.errors import ConfigError

BLOCK = np.zeros(2**20 - 16, np.uint8)


def run(command: str, folder: Path) -> str:
    arguments = [command, "--data-dir", str(folder)]
    result = CliRunner().invoke(cache, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def written(folder: Path) -> BlockFiles:
    """What a server holds that has kept a block of two conversations, and one of one of them."""
    files = BlockFiles.open(folder / "kv", 2**30)
    assert files.write("conv_1", "resp_1", "a" * 64, BLOCK)
    assert files.write("conv_2", "resp_2", "a" * 64, None)
    assert files.write("conv_2", "resp_2", "b" * 64, BLOCK)
    return files


def test_what_is_kept_is_shown_and_cleared(tmp_path: Path) -> None:
    assert run("show", tmp_path) == "Nothing is kept.\n"
    files = written(tmp_path)
    root = tmp_path / "kv" / "0"
    said = f"{root}: 2.0 MiB in 2 blocks, of 2 conversations and answers"
    assert run("show", tmp_path) == f"{said} (in use)\n"
    with pytest.raises(ConfigError, match="Servers use 1 of the folders"):
        run("clear", tmp_path)
    assert files.index.num_bytes == 2 * 2**20
    files.close()
    assert run("show", tmp_path) == f"{said} (not in use)\n"
    assert run("clear", tmp_path) == "Done.\n"
    assert [path.name for path in root.iterdir()] == ["lock"]
    assert stat.S_IMODE(root.stat().st_mode) == 0o700


@pytest.mark.skipif(not MODEL.exists(), reason="../shared/data/stories260K is missing")
def test_a_size_where_nothing_can_be_kept_is_refused_by_name(tmp_path: Path) -> None:
    model = ModelSettings(
        model=str(MODEL), prefix_caching=False, chat_template="llama2", data_dir=tmp_path
    )
    with pytest.raises(ConfigError, match="kv_disk_gib is about the prefix cache"):
        assemble(model, store=StoreSettings(kv_disk_gib=1.0))
    assert not (tmp_path / "kv").exists()
