"""Each family gives transformers' numbers, from a folder that it saved and from a GGUF file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tests.engine.paged_steps import all_logits, greedy_ids, random_ids
from weights_builders import TOKENIZER, write_gguf

from llamastream.config import EngineConfig
from llamastream.engine.cpu_runner import CpuRunner
from llamastream.errors import ModelError
from llamastream.models import open_checkpoint
from llamastream.models.families import FAMILIES
from llamastream.models.hf_config import parse_config

FLOAT32 = EngineConfig(dtype="float32", max_num_seqs=2, block_size=16, threads=2)
SHAPE = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
THETA = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
MODELS = {
    "llama": ("LlamaForCausalLM", {}),
    "llama, biased": ("LlamaForCausalLM", {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("MistralForCausalLM", {"sliding_window": None, "head_dim": 12}),
    "qwen2": ("Qwen2ForCausalLM", THETA),
    "qwen2, tied": ("Qwen2ForCausalLM", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3ForCausalLM", {**THETA, "head_dim": 24}),
    "qwen3, tied": ("Qwen3ForCausalLM", {"tie_word_embeddings": True, "head_dim": 16}),
    "qwen3, biased": ("Qwen3ForCausalLM", {"attention_bias": True, "head_dim": 8}),
}


def saved(name: str, folder: Path) -> tuple[Any, list[Path]]:
    """A random model of transformers, and the same as a folder and as a GGUF file."""
    architecture, fields = MODELS[name]
    torch.manual_seed(0)
    kind = getattr(transformers, architecture)
    model = kind(kind.config_class(**SHAPE, **fields)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms are born as 0 and 1
            shape = parameter.shape
            is_vector = parameter.ndim == 1
            parameter.copy_(
                torch.rand(shape) + 0.5 if is_vector else torch.randn(shape) / shape[-1] ** 0.5
            )
    model.save_pretrained(folder / "hf")
    (folder / "hf" / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    config = json.loads((folder / "hf" / "config.json").read_text())
    tensors = {name: values.numpy() for name, values in model.state_dict().items()}
    if config["tie_word_embeddings"]:
        tensors.pop("lm_head.weight", None)
    file, head = folder / "m.gguf", f"{kind.__name__[:5].lower()}."
    keys = {f"{head}rope.freq_base": config["rope_parameters"]["rope_theta"]}
    if dim := config.get("head_dim"):
        keys |= {f"{head}attention.key_length": dim, f"{head}attention.value_length": dim}
    keys = {key.replace("mistr.", "llama."): value for key, value in keys.items()}
    write_gguf(file, config=config, tensors=tensors, metadata=keys)
    return model, [folder / "hf", file]


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_greedy_ids_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    model, paths = saved(name, tmp_path)
    count, ids = 24, random_ids(model.config, 70, seed=1)
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].numpy()
        for _ in range(count):
            last = model(torch.tensor([ids])).logits[0, -1]
            ids.append(int(last.argmax()))
    assert logits.std() > 0.5  # the comparison below means something
    found = []
    for path in paths:
        checkpoint = open_checkpoint(str(path), cache_dir=tmp_path / "cache")
        runner = CpuRunner.load(checkpoint.config, FLOAT32, checkpoint.stored_tensors)
        found.append(all_logits(runner, ids[:-count]))
        np.testing.assert_allclose(found[-1], logits, atol=1e-4, rtol=0)
        assert greedy_ids(runner, ids[:-count], count) == ids[-count:]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.architecture)
def test_defaults_are_those_of_transformers(family: Any) -> None:
    required = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                "num_attention_heads", "num_key_value_heads")  # fmt: skip
    values = {key: SHAPE[key] for key in required}
    theirs = getattr(transformers, family.architecture).config_class(**values)
    ours = parse_config({**values, "architectures": [family.architecture]}, Path("config.json"))
    window = theirs.to_dict().get("sliding_window") or 2**30
    context = min(theirs.max_position_embeddings, window)
    if family.architecture != "MistralForCausalLM":  # whose default is longer than any model's
        assert ours.max_position_embeddings == context
    assert ours.head_dim == (theirs.to_dict().get("head_dim") or 32 // 4)
    for field in ("rms_norm_eps", "tie_word_embeddings"):
        assert getattr(ours, field) == getattr(theirs, field), field


@pytest.mark.parametrize(
    ("fields", "context"),
    [
        ({"sliding_window": 16}, 64),
        ({"sliding_window": 16, "use_sliding_window": False}, 64),
        ({"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 1}, 16),
        ({"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 2}, 64),
        ({"sliding_window": None, "max_window_layers": 28}, 64),
    ],
)
@pytest.mark.parametrize("architecture", ["Qwen2ForCausalLM", "Qwen3ForCausalLM"])
def test_qwens_window_counts_where_a_layer_has_it(
    architecture: str, fields: dict[str, Any], context: int
) -> None:
    values = {**SHAPE, "architectures": [architecture], "max_position_embeddings": 64, **fields}
    assert parse_config(values, Path("config.json")).max_position_embeddings == context


@pytest.mark.parametrize("scaling", [{"rope_type": "yarn", "factor": 4.0}])
def test_scaling_of_long_contexts_that_is_not_computed_is_named(scaling: dict[str, Any]) -> None:
    values = {**SHAPE, "architectures": ["Qwen2ForCausalLM"], "rope_scaling": scaling}
    with pytest.raises(ModelError, match="one of linear, dynamic, llama3. Given: 'yarn'"):
        parse_config(values, Path("config.json"))
