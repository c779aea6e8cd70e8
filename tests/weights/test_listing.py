"""What `models list` and `models show` are told."""

from pathlib import Path

import pytest
from weights_builders import CONFIG, write_folder, write_gguf

from llamastream.weights import describe, list_local, open_checkpoint
from llamastream.weights.demo import demo_file
from llamastream.weights.hub_cache import hub_folder, mark_verified, repository_folder


def add_demo(cache: Path) -> None:
    demo_file(cache).parent.mkdir(parents=True)
    write_gguf(demo_file(cache))


def add_fetched(cache: Path, repo_id: str, commit: str = "c0ffee") -> Path:
    snapshot = repository_folder(hub_folder(cache), repo_id) / "snapshots" / commit
    write_folder(snapshot)
    return snapshot


def test_nothing_fetched_lists_nothing(cache: Path) -> None:
    assert list_local(cache) == []


def test_demo_and_verified_hub_models_are_listed(cache: Path) -> None:
    add_demo(cache)
    mark_verified(add_fetched(cache, "owner/one"))
    add_fetched(cache, "owner/unfinished")
    infos = list_local(cache)
    assert [(info.name, info.format) for info in infos] == [
        ("demo", "gguf"),
        ("owner/one", "safetensors"),
    ]


def test_unreadable_model_is_logged_not_listed(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    snapshot = add_fetched(cache, "owner/broken")
    mark_verified(snapshot)
    (snapshot / "model.safetensors").write_bytes(b"")
    assert list_local(cache) == []
    assert "owner/broken" in caplog.text and "truncated" in caplog.text


def test_description_counts_parameters_and_memory(tmp_path: Path) -> None:
    tensors = write_folder(tmp_path / "m")
    info = describe(open_checkpoint(str(tmp_path / "m"), cache_dir=tmp_path))
    count = sum(values.size for values in tensors.values())
    assert info.name == "m" and info.path == tmp_path / "m"
    assert info.num_parameters == count
    assert (info.precision, info.size_bytes, info.float32_bytes) == ("F32", 4 * count, 4 * count)
    assert info.int8_bytes == count * 36 // 32
    # 2 layers, keys and values, 2 KV heads of 4 numbers
    assert (info.int8_kv_bytes, info.float32_kv_bytes) == (32 * 2, 32 * 4)
    assert info.max_context == CONFIG["max_position_embeddings"]
