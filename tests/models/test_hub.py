"""Models of the hub, against a stand-in hub on loopback: what is fetched, and each way to fail."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from stand_in_hub import COMMIT, Repository, StandInHub, running_hub
from weights_builders import CONFIG, write_folder

from llamastream.errors import ModelError
from llamastream.models import list_local, open_checkpoint
from llamastream.models.opening import fetch_model

REPO = "owner/tiny-llama"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    # The person's own cache and token must not decide a test.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "general"))
    monkeypatch.setattr("llamastream.models.hub.get_token", lambda: None)
    monkeypatch.setenv("HF_TOKEN", "")
    with running_hub() as hub:
        yield hub


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    """A repository with everything, of which only a part is needed."""
    write_folder(
        tmp_path / "origin",
        files={
            "tokenizer_config.json": {"bos_token": "<s>"},
            "generation_config.json": {"eos_token_id": [2, 0]},
            "chat_template.jinja": "{{ messages }}",
        },
    )
    files = {file.name: file.read_bytes() for file in (tmp_path / "origin").iterdir()}
    unneeded = ("README.md", "pytorch_model.bin", "consolidated.00.pth", "modeling_evil.py",
                "model-f16.gguf", "tokenizer.model", "training_args.bin")  # fmt: skip
    return files | {name: name.encode() for name in unneeded}


def fetch(hub: StandInHub, cache: Path, repo: str = REPO, revision: str | None = None) -> Path:
    return fetch_model(repo, revision, cache, endpoint=hub.url)


def error_of(hub: StandInHub, cache: Path, repo: str = REPO, revision: str | None = None) -> str:
    with pytest.raises(ModelError) as caught:
        fetch(hub, cache, repo, revision)
    assert "\n" not in caught.value.message
    return caught.value.message


def test_only_what_is_needed_is_downloaded(
    hub: StandInHub, files: dict[str, bytes], cache: Path
) -> None:
    hub.repositories[REPO] = Repository(files)
    folder = fetch(hub, cache)
    needed = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
              "chat_template.jinja", "model.safetensors"}  # fmt: skip
    assert hub.downloaded() == needed
    assert {file.name for file in folder.iterdir()} == needed
    for name in needed:
        assert (folder / name).read_bytes() == files[name]


def test_fetched_model_opens_with_its_hub_id_and_numbers(
    hub: StandInHub, files: dict[str, bytes], cache: Path, tmp_path: Path
) -> None:
    hub.repositories[REPO] = Repository(files)
    fetch(hub, cache)
    checkpoint = open_checkpoint(REPO, cache_dir=cache)
    origin = dict(open_checkpoint(str(tmp_path / "origin"), cache_dir=cache).tensors())
    assert checkpoint.name == REPO
    assert checkpoint.tokenizer.chat_template == "{{ messages }}"
    for name, values in checkpoint.tensors():
        np.testing.assert_array_equal(values, origin[name])
    assert [info.name for info in list_local(cache)] == [REPO]


def test_without_weights_the_small_files_come_alone_and_are_no_whole_model(
    hub: StandInHub, files: dict[str, bytes], cache: Path
) -> None:
    hub.repositories[REPO] = Repository(files)
    folder = fetch_model(REPO, None, cache, endpoint=hub.url, with_weights=False)
    assert "model.safetensors" not in hub.downloaded()
    hub.requests.clear()
    assert fetch_model(REPO, None, cache, endpoint=hub.url, with_weights=False) == folder
    assert hub.requests == [] and list_local(cache) == []
    assert (fetch(hub, cache) / "model.safetensors").is_file()  # for who computes here


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_second_start_makes_no_request(
    hub: StandInHub, files: dict[str, bytes], cache: Path, revision: str | None
) -> None:
    hub.repositories[REPO] = Repository(files)
    first = fetch(hub, cache, revision=revision)
    hub.requests.clear()
    assert fetch(hub, cache, revision=revision) == first
    assert hub.requests == []


def test_whole_way_by_name_in_a_fresh_process_then_offline(
    hub: StandInHub, files: dict[str, bytes], cache: Path, tmp_path: Path
) -> None:
    hub.repositories[REPO] = Repository(files)
    program = (
        "import sys; from pathlib import Path; from llamastream.models import open_checkpoint; "
        "print(open_checkpoint(sys.argv[1], cache_dir=Path(sys.argv[2])).num_parameters)"
    )
    outputs = []
    for endpoint in (hub.url, "http://127.0.0.1:1"):  # nothing listens on port 1
        environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home")}
        done = subprocess.run(
            [sys.executable, "-c", program, REPO, str(cache)],
            env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        outputs.append((done.stdout, done.stderr))
    assert outputs[0] == outputs[1] and int(outputs[0][0]) > 0
    assert outputs[0][1] == ""  # no bars but ours


def test_shards_are_fetched_without_their_duplicates(
    hub: StandInHub, files: dict[str, bytes], cache: Path
) -> None:
    whole, shard = files.pop("model.safetensors"), "model-00001-of-00001.safetensors"
    files |= {
        "model.safetensors.index.json": b'{"weight_map": {"x": "%s"}}' % shard.encode(),
        shard: whole,
        "consolidated.safetensors": b"duplicate",
    }
    hub.repositories[REPO] = Repository(files)
    folder = fetch(hub, cache)
    assert "consolidated.safetensors" not in hub.downloaded()
    assert (folder / shard).read_bytes() == whole


def test_sentencepiece_model_is_fetched_where_there_is_no_tokenizer_json(
    hub: StandInHub, files: dict[str, bytes], cache: Path
) -> None:
    del files["tokenizer.json"]
    hub.repositories[REPO] = Repository(files)
    fetch(hub, cache)
    assert "tokenizer.model" in hub.downloaded()


def test_progress_ends_at_the_size_of_the_weights(
    hub: StandInHub, files: dict[str, bytes], cache: Path
) -> None:
    hub.repositories[REPO] = Repository(files)
    seen: list[tuple[str, int, int]] = []
    fetch_model(REPO, None, cache, lambda *report: seen.append(report), hub.url)
    size = len(files["model.safetensors"])
    assert seen[-1] == (REPO, size, size)
    assert all(done <= total == size for _, done, total in seen)


def test_model_of_the_general_cache_is_used_in_place(
    hub: StandInHub, files: dict[str, bytes], cache: Path, tmp_path: Path
) -> None:
    snapshot = tmp_path / "general" / "models--owner--tiny-llama" / "snapshots" / COMMIT
    write_folder(snapshot)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text(COMMIT)
    assert fetch(hub, cache) == snapshot
    assert hub.requests == []


def test_partial_model_of_the_general_cache_is_not_used(
    hub: StandInHub, files: dict[str, bytes], cache: Path, tmp_path: Path
) -> None:
    snapshot = tmp_path / "general" / "models--owner--tiny-llama" / "snapshots" / COMMIT
    write_folder(snapshot)
    (snapshot / "model.safetensors").unlink()
    hub.repositories[REPO] = Repository(files)
    assert cache in fetch(hub, cache, revision=COMMIT).parents


def test_gated_repository_says_where_to_ask(
    hub: StandInHub, files: dict[str, bytes], cache: Path
) -> None:
    hub.repositories[REPO] = Repository(files, gated=True)
    message = error_of(hub, cache)
    assert f"Ask for access on https://huggingface.co/{REPO}" in message
    assert "`hf auth login`" in message and "HF_TOKEN" in message


def test_gated_repository_with_a_token_says_it_has_no_access(
    hub: StandInHub, files: dict[str, bytes], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llamastream.models.hub.get_token", lambda: "hf_x")
    hub.repositories[REPO] = Repository(files, gated=True)
    assert "your token's account has no access" in error_of(hub, cache)


def test_no_such_repository(hub: StandInHub, cache: Path) -> None:
    assert "There is no model 'owner/nothing' on the hub" in error_of(hub, cache, "owner/nothing")


def test_name_the_hub_does_not_allow(hub: StandInHub, cache: Path) -> None:
    assert "There is no model 'owner/a..b'" in error_of(hub, cache, "owner/a..b")
    assert hub.requests == []


def test_no_such_revision(hub: StandInHub, files: dict[str, bytes], cache: Path) -> None:
    hub.repositories[REPO] = Repository(files)
    assert f"{REPO} has no revision 'v9'" in error_of(hub, cache, revision="v9")


def test_no_network(cache: Path, hub: StandInHub) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        hub.url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    message = error_of(hub, cache)
    assert f"No connection to the hub for {REPO}" in message and "Check the network" in message


def test_folder_that_cannot_be_written_is_named(
    hub: StandInHub, files: dict[str, bytes], cache: Path
) -> None:
    hub.repositories[REPO] = Repository(files)
    cache.write_text("a file where the folder should be")
    assert f"Cannot store {REPO} in {cache}" in error_of(hub, cache)


def test_failing_hub_is_told_with_its_status(hub: StandInHub, cache: Path) -> None:
    hub.repositories[REPO] = Repository({}, status=418)
    assert f"The hub answered 418 for {REPO}" in error_of(hub, cache)


@pytest.mark.parametrize(
    ("kept", "part"),
    [("pytorch_model.bin", "pickle"), ("model-f16.gguf", "GGUF"), ("README.md", "no safetensors")],
)
def test_repository_without_safetensors_says_what_it_has(
    hub: StandInHub, files: dict[str, bytes], cache: Path, kept: str, part: str
) -> None:
    hub.repositories[REPO] = Repository({"config.json": files["config.json"], kept: files[kept]})
    assert part in error_of(hub, cache)
    assert hub.downloaded() == set()


def test_unsupported_architecture_is_refused_before_its_weights_are_fetched(
    hub: StandInHub, files: dict[str, bytes], cache: Path
) -> None:
    files["config.json"] = b'{"architectures": ["GPT2LMHeadModel"]}'
    hub.repositories[REPO] = Repository(files)
    assert "Given: 'GPT2LMHeadModel'" in error_of(hub, cache)
    assert "model.safetensors" not in hub.downloaded()


def test_truncated_body_is_an_error_and_the_next_start_completes_it(
    hub: StandInHub, files: dict[str, bytes], cache: Path
) -> None:
    repository = hub.repositories[REPO] = Repository(files, cut={"model.safetensors"})
    assert "what has arrived is kept" in error_of(hub, cache)
    repository.cut.clear()
    folder = fetch(hub, cache)
    assert (folder / "model.safetensors").read_bytes() == files["model.safetensors"]


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_wrong_digest_is_an_error_and_the_next_start_fetches_anew(
    hub: StandInHub, files: dict[str, bytes], cache: Path, name: str
) -> None:
    good = files[name]
    files[name] = good[:-1] + bytes([good[-1] ^ 1])
    repository = hub.repositories[REPO] = Repository(files, stated={name: good})
    assert f"{name} has the wrong digest" in error_of(hub, cache)
    assert "wrong digest" in error_of(hub, cache)  # not taken for good the second time
    repository.files[name] = good
    assert (fetch(hub, cache) / name).read_bytes() == good


def test_sizes_of_the_tiny_model_are_told(
    hub: StandInHub, files: dict[str, bytes], cache: Path
) -> None:
    hub.repositories[REPO] = Repository(files)
    fetch(hub, cache)
    [info] = list_local(cache)
    assert info.config.max_position_embeddings == CONFIG["max_position_embeddings"]
    assert info.size_bytes == 4 * info.num_parameters
