"""Folders in Hugging Face layout: what opens, with which numbers, and each way to fail."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM
from weights_builders import CONFIG, TOKENIZER, random_tensors, write_folder, write_safetensors

from llamastream.errors import ModelError
from llamastream.models import open_checkpoint

SHAPE = {key: CONFIG[key] for key in CONFIG if key not in ("architectures",)}


def opened(folder: Path, tmp_path: Path) -> dict[str, np.ndarray]:
    return dict(open_checkpoint(str(folder), cache_dir=tmp_path / "cache").tensors())


def error_of(folder: Path, tmp_path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        open_checkpoint(str(folder), cache_dir=tmp_path / "cache")
    assert "\n" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tie_word_embeddings": True},
        {"attention_bias": True, "mlp_bias": True},
        {"head_dim": 8},
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
    ],
    ids=lambda options: next(iter(options), "plain"),
)
def test_model_saved_by_transformers_opens_with_its_numbers(
    tmp_path: Path, options: dict[str, Any], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, **options)).to(dtype)
    model.save_pretrained(tmp_path / "m", max_shard_size="4KB")
    (tmp_path / "m" / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    assert (tmp_path / "m" / "model.safetensors.index.json").exists()

    checkpoint = open_checkpoint(str(tmp_path / "m"), cache_dir=tmp_path)
    tensors = dict(checkpoint.tensors())

    expected = {name: value.float().numpy() for name, value in model.state_dict().items()}
    if options.get("tie_word_embeddings"):
        del expected["lm_head.weight"]
    assert tensors.keys() == expected.keys()
    for name, values in tensors.items():
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, expected[name])
    assert checkpoint.num_parameters == sum(value.size for value in expected.values())
    assert checkpoint.size_bytes == checkpoint.num_parameters * dtype.itemsize
    assert checkpoint.dtype == {4: "F32"}.get(dtype.itemsize, checkpoint.dtype)
    assert checkpoint.config.tie_word_embeddings == options.get("tie_word_embeddings", False)
    assert checkpoint.config.attention_bias == options.get("attention_bias", False)
    assert checkpoint.config.head_dim == options.get("head_dim", 4)


def test_mistral_opens_with_its_window_as_context(tmp_path: Path) -> None:
    config = MistralConfig(**SHAPE, sliding_window=32)
    MistralForCausalLM(config).save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    checkpoint = open_checkpoint(str(tmp_path / "m"), cache_dir=tmp_path)
    assert checkpoint.config.max_position_embeddings == 32


def test_tensors_larger_than_the_read_ahead_all_arrive_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = write_folder(tmp_path / "m")
    monkeypatch.setattr("llamastream.models.decode.MAX_AHEAD_BYTES", 64)
    checkpoint = open_checkpoint(str(tmp_path / "m"), cache_dir=tmp_path)
    names = [name for name, _ in checkpoint.tensors()]
    assert names == [entry.name for entry in checkpoint.entries]
    assert set(names) == expected.keys()


def test_name_is_the_folders(tmp_path: Path) -> None:
    write_folder(tmp_path / "my-llama")
    assert open_checkpoint(str(tmp_path / "my-llama"), cache_dir=tmp_path).name == "my-llama"


def test_content_is_the_same_wherever_it_lies_and_differs_with_any_tensor(tmp_path: Path) -> None:
    """Machines tell by it whether one may go on with what the other began."""

    def digest(name: str) -> str:
        return open_checkpoint(str(tmp_path / name), cache_dir=tmp_path).content_digest()

    write_folder(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)
    assert digest("a") == digest("b")
    checkpoint = open_checkpoint(str(tmp_path / "b"), cache_dir=tmp_path)
    whole = (tmp_path / "b" / "model.safetensors").read_bytes()
    for entry in checkpoint.entries:
        data = bytearray(whole)
        data[entry.offset] ^= 1
        (tmp_path / "b" / "model.safetensors").write_bytes(data)
        assert digest("a") != digest("b"), entry.name


def test_fingerprint_is_stable_and_changes_with_a_file(tmp_path: Path) -> None:
    def fingerprint() -> str:
        return open_checkpoint(str(tmp_path / "m"), cache_dir=tmp_path).fingerprint

    write_folder(tmp_path / "m")
    first = fingerprint()
    assert fingerprint() == first
    write_folder(tmp_path / "m", config={**CONFIG, "rms_norm_eps": 0.001})
    assert fingerprint() != first


def test_inverse_frequencies_of_old_checkpoints_are_ignored(tmp_path: Path) -> None:
    tensors = random_tensors(CONFIG)
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(2, np.float32)}
    write_folder(tmp_path / "m", tensors=tensors | extra)
    assert opened(tmp_path / "m", tmp_path).keys() == tensors.keys()


def test_output_matrix_equal_to_tied_embedding_is_ignored(tmp_path: Path) -> None:
    tied = {**CONFIG, "tie_word_embeddings": True}
    tensors = random_tensors(tied)
    copy = {"lm_head.weight": tensors["model.embed_tokens.weight"]}
    write_folder(tmp_path / "m", config=tied, tensors=tensors | copy)
    assert opened(tmp_path / "m", tmp_path).keys() == tensors.keys()


def test_own_output_matrix_of_a_tied_model_is_used_and_said(tmp_path: Path) -> None:
    """As transformers 5 does it: it had been refused here, and overwritten there before."""
    config = {**CONFIG, "tie_word_embeddings": True}
    tensors = write_folder(tmp_path / "m", config=config, tensors=random_tensors(CONFIG))
    checkpoint = open_checkpoint(str(tmp_path / "m"), cache_dir=tmp_path)
    assert not checkpoint.config.tie_word_embeddings
    assert "ties lm_head.weight" in checkpoint.warnings[0]
    read = dict(checkpoint.tensors())
    assert np.array_equal(read["lm_head.weight"], tensors["lm_head.weight"])


def test_shards_without_an_index_are_all_there_or_the_missing_one_is_named(tmp_path: Path) -> None:
    tensors = write_folder(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    names = sorted(tensors)
    for n in range(3):
        shard = tmp_path / "m" / f"model-0000{n + 1}-of-00003.safetensors"
        save_file({name: tensors[name] for name in names[n::3]}, shard)
    assert opened(tmp_path / "m", tmp_path).keys() == tensors.keys()
    (tmp_path / "m" / "model-00002-of-00003.safetensors").unlink()
    assert "lacks shard 2 of 3" in error_of(tmp_path / "m", tmp_path)


@pytest.mark.parametrize(("given", "expected"), [(-1, 0), (0, 0), (40, 40), (40.0, 40)], ids=str)
def test_top_k_of_the_authors_may_be_whatever_the_api_takes(
    tmp_path: Path, given: float, expected: int
) -> None:
    write_folder(tmp_path / "m", files={"generation_config.json": {"top_k": given}})
    opened_model = open_checkpoint(str(tmp_path / "m"), cache_dir=tmp_path)
    assert opened_model.sampling.top_k == expected


def test_missing_tensor_is_named(tmp_path: Path) -> None:
    tensors = random_tensors(CONFIG)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    write_folder(tmp_path / "m", tensors=tensors)
    message = error_of(tmp_path / "m", tmp_path)
    assert "'model.layers.1.mlp.up_proj.weight' is missing" in message


def test_extra_tensor_is_named(tmp_path: Path) -> None:
    tensors = random_tensors(CONFIG) | {"model.layers.2.x.weight": np.ones(2, np.float32)}
    write_folder(tmp_path / "m", tensors=tensors)
    assert "'model.layers.2.x.weight' is not part" in error_of(tmp_path / "m", tmp_path)


def test_wrong_shape_is_named_with_both_shapes(tmp_path: Path) -> None:
    tensors = random_tensors(CONFIG) | {"model.norm.weight": np.ones(15, np.float32)}
    write_folder(tmp_path / "m", tensors=tensors)
    message = error_of(tmp_path / "m", tmp_path)
    assert "'model.norm.weight' must have shape (16,)" in message
    assert "Given: (15,)" in message


@pytest.mark.parametrize("kept", [4, 100, -1])
def test_truncated_weights_are_named(tmp_path: Path, kept: int) -> None:
    write_folder(tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    message = error_of(tmp_path / "m", tmp_path)
    assert str(file) in message
    assert "truncated" in message


def test_file_truncated_after_opening_is_an_error_not_garbage(tmp_path: Path) -> None:
    write_folder(tmp_path / "m")
    checkpoint = open_checkpoint(str(tmp_path / "m"), cache_dir=tmp_path)
    file = tmp_path / "m" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ModelError, match="truncated"):
        list(checkpoint.tensors())


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"{not json", "invalid JSON in header"),
        (b"[]", "invalid JSON in header"),
        (b'{"a": 1}', "invalid JSON in header"),
        (b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', "invalid shape"),
        (b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}}', "invalid offset"),
    ],
)
def test_damaged_header_is_named(tmp_path: Path, header: bytes, reason: str) -> None:
    write_folder(tmp_path / "m")
    data = len(header).to_bytes(8, "little") + header + bytes(64)
    (tmp_path / "m" / "model.safetensors").write_bytes(data)
    assert reason in error_of(tmp_path / "m", tmp_path)


def test_unsupported_tensor_type_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    write_safetensors(file, {"model.norm.weight": ("F8_E4M3", [16], bytes(16))})
    assert "type F8_E4M3. Supported: F32, F16, BF16" in error_of(tmp_path / "m", tmp_path)


def test_missing_shard_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (tmp_path / "m" / "model.safetensors.index.json").write_text(json.dumps(index))
    message = error_of(tmp_path / "m", tmp_path)
    assert "model-00001-of-00002.safetensors is missing" in message


def test_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "m")
    data = (tmp_path / "m" / "model.safetensors").read_bytes()
    (tmp_path / "m" / "model.safetensors").unlink()
    for name in ("a.safetensors", "b.safetensors"):
        (tmp_path / "m" / name).write_bytes(data)
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (tmp_path / "m" / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "is in both a.safetensors and b.safetensors" in error_of(tmp_path / "m", tmp_path)


def test_shard_outside_the_folder_is_not_read(tmp_path: Path) -> None:
    write_folder(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").rename(tmp_path / "outside.safetensors")
    index = {"weight_map": {"x": "../outside.safetensors"}}
    (tmp_path / "m" / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "m/outside.safetensors is missing" in error_of(tmp_path / "m", tmp_path)


def test_folder_without_config_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "m", files={"config.json": None})
    assert "has no config.json" in error_of(tmp_path / "m", tmp_path)
    (tmp_path / "m" / "model-Q4_0.gguf").touch()
    assert "give the path of one of them" in error_of(tmp_path / "m", tmp_path)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("pytorch_model.bin", "pickle"), ("model-Q4_0.gguf", "GGUF"), ("x.txt", "Download")],
)
def test_folder_without_safetensors_says_what_it_holds(
    tmp_path: Path, name: str, hint: str
) -> None:
    write_folder(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").rename(tmp_path / "m" / name)
    assert hint in error_of(tmp_path / "m", tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "\xff"])
def test_bad_config_json_is_named(tmp_path: Path, content: str) -> None:
    write_folder(tmp_path / "m", files={"config.json": content})
    assert str(tmp_path / "m" / "config.json") in error_of(tmp_path / "m", tmp_path)


@pytest.mark.parametrize("model", ["no/such/folder", "./missing", "missing.gguf", "nothing", ""])
def test_name_of_nothing_is_refused_without_network(tmp_path: Path, model: str) -> None:
    with pytest.raises(ModelError, match="neither a folder nor a file"):
        open_checkpoint(model, cache_dir=tmp_path)


def test_weights_of_an_adapter_are_named_with_or_without_a_model_beside(tmp_path: Path) -> None:
    write_folder(tmp_path / "m", files={"adapter_config.json": {"peft_type": "LORA"}})
    assert "merge_and_unload" in error_of(tmp_path / "m", tmp_path)
    (tmp_path / "m" / "config.json").unlink()
    assert "merge_and_unload" in error_of(tmp_path / "m", tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "m.gguf", "blob"])
def test_pointers_of_a_clone_without_git_lfs_are_named_in_the_place_of_what_is_read(
    tmp_path: Path, name: str
) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
    write_folder(tmp_path / "m", files={"pytorch_model.bin": pointer})
    open_checkpoint(str(tmp_path / "m"), cache_dir=tmp_path / "cache")  # it is not read
    (tmp_path / "m" / name).write_text(pointer)
    given = tmp_path / "m" if "." in name and "gguf" not in name else tmp_path / "m" / name
    message = error_of(given, tmp_path)
    assert f"{name} is a pointer of Git LFS" in message
    assert "`git lfs pull`" in message


def test_other_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    file.touch()
    with pytest.raises(ModelError, match="not a .gguf file"):
        open_checkpoint(str(file), cache_dir=tmp_path)


def test_revision_of_a_local_model_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "m")
    with pytest.raises(ModelError, match="revision"):
        open_checkpoint(str(tmp_path / "m"), cache_dir=tmp_path, revision="main")


def test_stories_folder_and_gguf_are_the_same_model(
    shared: Callable[[str], Path], cache: Path
) -> None:
    folder = open_checkpoint(str(shared("stories260K")), cache_dir=cache)
    file = open_checkpoint(str(shared("stories260K/stories260K-f32.gguf")), cache_dir=cache)
    assert folder.config == file.config
    ours, theirs = dict(folder.tensors()), dict(file.tensors())
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        np.testing.assert_array_equal(values, theirs[name])
