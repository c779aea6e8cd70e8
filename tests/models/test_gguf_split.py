"""GGUF models in several files, as llama.cpp's gguf-split makes them."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from weights_builders import (
    CONFIG,
    gguf_metadata,
    gguf_name,
    gguf_order,
    random_tensors,
    write_gguf,
)

from llamastream.errors import ModelError
from llamastream.models import open_checkpoint
from llamastream.models.checkpoint import Checkpoint
from llamastream.models.gguf_split import part_files

COUNT = 3


def write_split(folder: Path, *, empty_first: bool = False, **keys: Any) -> list[Path]:
    """The model of `write_gguf` in three files. keys: changes to those of the second, with _."""
    tensors = random_tensors(CONFIG)
    heads = {"q_proj": CONFIG["num_attention_heads"], "k_proj": CONFIG["num_key_value_heads"]}
    names = list(tensors)
    cut = [0 if empty_first else 7, 14]
    shares: Sequence[list[str]] = [names[: cut[0]], names[cut[0] : cut[1]], names[cut[1] :]]
    files = []
    for number, share in enumerate(shares):
        files.append(folder / f"tiny-{number + 1:05}-of-{COUNT:05}.gguf")
        writer = gguf.GGUFWriter(files[-1], "llama")
        split = {"no": number, "count": COUNT, "tensors_count": len(tensors)}
        split |= keys if number == 1 else {}
        writer.add_uint16("split.no", split["no"])
        writer.add_uint16("split.count", split["count"])
        writer.add_int32("split.tensors.count", split["tensors_count"])
        if number == 0:
            for key, value in gguf_metadata(CONFIG).items():
                if isinstance(value, list):
                    writer.add_array(key, value)
                elif isinstance(value, float):
                    writer.add_float32(key, value)
                elif isinstance(value, int):
                    writer.add_uint32(key, value)
                elif key != "general.architecture":
                    writer.add_string(key, value)
        for name in share:
            module = name.split(".")[-2]
            values = tensors[name]
            rows = gguf_order(values, heads[module]) if module in heads else values
            writer.add_tensor(gguf_name(name), np.ascontiguousarray(rows))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return files


def opened(file: Path, cache: Path) -> Checkpoint:
    return open_checkpoint(str(file), cache_dir=cache)


@pytest.mark.parametrize("empty_first", [False, True])
def test_any_part_opens_the_whole_model(tmp_path: Path, cache: Path, empty_first: bool) -> None:
    files = write_split(tmp_path, empty_first=empty_first)
    for file in (*files, files[0]):  # the last from the cache
        checkpoint = opened(file, cache)
        assert checkpoint.name == "tiny"
        assert {entry.file for entry in checkpoint.entries} <= set(files)
        tensors = dict(checkpoint.tensors())
        expected = random_tensors(CONFIG)
        assert tensors.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(tensors[name], values)


def test_a_moved_model_is_read_where_it_is(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    opened(write_split(folder)[0], cache)
    link = tmp_path / "b"
    link.symlink_to(folder)
    checkpoint = opened(link / "tiny-00002-of-00003.gguf", cache)
    assert {entry.file.parent for entry in checkpoint.entries} == {link}


def test_every_part_counts_for_the_fingerprint(tmp_path: Path, cache: Path) -> None:
    files = write_split(tmp_path)
    before = opened(files[0], cache).fingerprint
    assert opened(files[2], cache).fingerprint == before
    shutil.copy(files[2], tmp_path / "x")
    (tmp_path / "x").replace(files[2])
    assert opened(files[0], cache).fingerprint != before


def error_of(file: Path, cache: Path) -> str:
    with pytest.raises(ModelError) as caught:
        opened(file, cache)
    assert "\n" not in caught.value.message
    return caught.value.message


def test_missing_parts_are_named(tmp_path: Path, cache: Path) -> None:
    files = write_split(tmp_path)
    files[2].unlink()
    assert f"is one of 3 parts: {files[2]} is missing." in error_of(files[1], cache)
    files[1].unlink()
    assert f"{files[1]} and 1 more parts are missing." in error_of(files[0], cache)


def test_a_part_by_another_name_says_how_to_call_it(tmp_path: Path, cache: Path) -> None:
    other = write_split(tmp_path)[1].rename(tmp_path / "second.gguf")
    assert "NAME-00001-of-00003.gguf" in error_of(other, cache)


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        ({"no": 2}, "split.no must be 1, as its name says. Given: 2."),
        ({"count": 4}, "split.count must be 3, as its name says. Given: 4."),
    ],
)
def test_parts_of_another_model_are_named(
    tmp_path: Path, cache: Path, keys: dict[str, int], part: str
) -> None:
    files = write_split(tmp_path, **keys)
    assert part in error_of(files[0], cache)
    assert files[1].name in error_of(files[0], cache)


def test_tensors_of_other_parts_are_counted(tmp_path: Path, cache: Path) -> None:
    files = write_split(tmp_path)
    (tmp_path / "b").mkdir()
    shutil.copy(write_split(tmp_path / "b", empty_first=True)[1], files[1])
    assert "split.tensors.count must be 28, as all parts hold" in error_of(files[0], cache)


@pytest.mark.parametrize(
    "name", ["a-00000-of-00002.gguf", "a-00003-of-00002.gguf", "a-1-of-2.gguf", "a.gguf"]
)
def test_a_whole_model_may_have_any_name(tmp_path: Path, cache: Path, name: str) -> None:
    write_gguf(tmp_path / name)
    assert part_files(tmp_path / name) == [tmp_path / name]
    assert opened(tmp_path / name, cache).name == name.removesuffix(".gguf")


def test_a_whole_model_may_be_named_like_a_part(tmp_path: Path, cache: Path) -> None:
    write_gguf(tmp_path / "a-00001-of-00002.gguf")
    assert len(opened(tmp_path / "a-00001-of-00002.gguf", cache).entries) == 21
