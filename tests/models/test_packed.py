"""Packed weights: found by content, listed with their sizes, bounded by when they were used."""

import os
from pathlib import Path

import pytest

from llamastream.models.packed import STALE_S, image_path, list_images, mark_used, trim


def make_images(data_dir: Path) -> list[Path]:
    """Three of 100 bytes, each used later than the one before."""
    paths = []
    for number in range(3):
        path = image_path(data_dir, f"org/model {number}", f"{number}" * 32, "int8")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(100))
        os.utime(path, (1000 + number, 1000 + number))
        paths.append(path)
    return paths


def test_a_model_finds_its_image_by_content_whatever_it_is_called(tmp_path: Path) -> None:
    first = make_images(tmp_path)[0]
    assert first.name == "org-model-0-0000000000000000-int8.bin"
    assert image_path(tmp_path, "renamed", "0" * 32, "int8") == first
    assert image_path(tmp_path, "renamed", "0" * 32, "int4") != first
    assert image_path(tmp_path, "../..", "9" * 32, "int8").parent == first.parent


def test_the_one_used_last_is_listed_first(tmp_path: Path) -> None:
    paths = make_images(tmp_path)
    assert [image.path for image in list_images(tmp_path)] == paths[::-1]
    assert [image.num_bytes for image in list_images(tmp_path)] == [100] * 3
    mark_used(paths[0])
    assert list_images(tmp_path)[0].path == paths[0]
    assert list_images(tmp_path / "none") == []


@pytest.mark.parametrize(
    "max_bytes, gone", [(None, []), (300, []), (299, [0]), (150, [0, 1]), (0, [0, 1])]
)
def test_those_unused_longest_go_first_and_the_one_in_use_never(
    max_bytes: int | None, gone: list[int], tmp_path: Path
) -> None:
    paths = make_images(tmp_path)
    removed = trim(tmp_path, max_bytes, keep=paths[2])
    assert [image.path for image in removed] == [paths[number] for number in gone]
    assert {image.path for image in list_images(tmp_path)} == set(paths) - {
        paths[number] for number in gone
    }


def test_what_a_killed_start_has_left_goes_once_it_is_old(tmp_path: Path) -> None:
    path = make_images(tmp_path)[0]
    old, new = (path.with_name(f"{path.name}.{pid}.tmp") for pid in (1, 2))
    old.write_bytes(b"x")
    new.write_bytes(b"x")
    os.utime(old, (0, old.stat().st_mtime - STALE_S - 1))
    trim(tmp_path, None, keep=path)
    assert not old.exists() and new.exists()
