"""Which models `models list` is told of."""

from pathlib import Path

import pytest
from weights_builders import write_folder, write_gguf

from llamastream.models import list_local
from llamastream.models.demo import demo_file
from llamastream.models.hub_cache import hub_folder, mark_verified, repository_folder
from llamastream.sampling import SamplingParams


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
    assert [(info.name, info.format, info.sampling) for info in infos] == [
        ("demo", "gguf", SamplingParams(temperature=0.6, top_p=0.9, repetition_penalty=1.1)),
        ("owner/one", "safetensors", SamplingParams()),
    ]


def test_unreadable_model_is_logged_not_listed(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    snapshot = add_fetched(cache, "owner/broken")
    mark_verified(snapshot)
    (snapshot / "model.safetensors").write_bytes(b"")
    assert list_local(cache) == []
    assert "owner/broken" in caplog.text and "damaged" in caplog.text
