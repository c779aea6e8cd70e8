"""Weights of 8 and 4 bits, and bfloat16, against the numbers they stand for."""

import weakref
from collections.abc import Iterator

import numpy as np
import pytest
from gpu_runners import MakeGpuRunner
from paged_steps import all_logits, random_ids
from tiny_llama import random_tensors, tiny_config

from llamastream.config import DType, EngineConfig
from llamastream.engine.reference import ReferenceRunner
from llamastream.errors import ModelError

CONFIG = tiny_config(hidden_size=64, intermediate_size=96, num_attention_heads=4, head_dim=16)


@pytest.mark.parametrize("bits, width, bound", [(8, 128, 0.008), (8, 96, 0.008), (4, 64, 0.12)])
def test_quantised_weights_are_near_the_true_ones(
    bits: int, width: int, bound: float, device: str
) -> None:
    import torch

    from llamastream.engine.gpu.weights import empty_matrix

    values = torch.randn(70, width, generator=torch.Generator().manual_seed(0))
    matrix = empty_matrix(70, width, bits, torch.device("cpu"))
    matrix.put(slice(0, 70), values)
    error = (matrix.values() - values).norm() / values.norm()
    assert 0 < error < bound
    assert matrix.weights.nbytes == 128 * width * bits // 8


@pytest.mark.parametrize("dtype, bound", [("bfloat16", 0.02), ("int8", 0.03), ("int4", 0.03)])
def test_logits_are_those_of_the_stored_weights(
    dtype: DType, bound: float, make_runner: MakeGpuRunner, device: str
) -> None:
    """What remains is the rounding of activations to bfloat16."""
    tensors, ids = random_tensors(CONFIG), random_ids(CONFIG, 12, seed=3)
    runner = make_runner(CONFIG, tensors, dtype)
    found = all_logits(runner, ids, chunk=5)
    stored = {name: stored_values(name, tensor, dtype) for name, tensor in tensors.items()}
    expected = all_logits(ReferenceRunner(CONFIG, stored, num_blocks=8, block_size=16), ids)
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < bound


def stored_values(name: str, tensor: np.ndarray, dtype: DType) -> np.ndarray:
    import torch

    from llamastream.engine.gpu.weights import BITS, empty_matrix

    values = torch.from_numpy(tensor)
    if tensor.ndim == 1:
        return tensor
    if name == "model.embed_tokens.weight":
        return values.bfloat16().float().numpy()
    bits = max(BITS[dtype], 8) if name == "lm_head.weight" else BITS[dtype]
    matrix = empty_matrix(*tensor.shape, bits, torch.device("cpu"))
    matrix.put(slice(0, len(tensor)), values)
    return matrix.values().numpy()


def test_a_tied_output_matrix_is_quantised_by_itself(make_runner: MakeGpuRunner) -> None:
    tied = tiny_config(tie_word_embeddings=True, intermediate_size=64)
    tensors = random_tensors(tied)
    apart = {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}
    ids = random_ids(tied, 5, seed=1)
    one = all_logits(make_runner(tied, tensors, "int8", max_model_len=32), ids)
    other = make_runner(tiny_config(intermediate_size=64), apart, "int8", max_model_len=32)
    np.testing.assert_array_equal(one, all_logits(other, ids))


def test_weights_stream_through_the_host_and_report_how_far_they_are(device: str) -> None:
    """No more than the tensor that is stored and the one that is read exist at a time."""
    import torch

    from llamastream.engine.gpu.weights import load_weights, tensor_shapes

    shapes, given = tensor_shapes(CONFIG), list[weakref.ref[np.ndarray]]()
    most, told = 0, list[tuple[int, int]]()

    def tensors() -> Iterator[tuple[str, np.ndarray]]:
        nonlocal most
        for name, shape in shapes.items():
            tensor = np.ones(shape, np.float32)
            given.append(weakref.ref(tensor))
            most = max(most, sum(ref() is not None for ref in given))
            yield name, tensor

    load_weights(
        CONFIG,
        "int8",
        tensors(),
        torch.device(device),
        progress=lambda done, total: told.append((done, total)),
    )
    assert most <= 2
    assert told == [(number, len(shapes)) for number in range(1, len(shapes) + 1)]


def test_a_model_that_does_not_fit_the_device_is_refused_with_what_to_lower(device: str) -> None:
    import torch

    from llamastream.engine.gpu.runner import GpuRunner

    def tensors() -> Iterator[tuple[str, np.ndarray]]:
        yield "model.norm.weight", np.ones(CONFIG.hidden_size, np.float32)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(ModelError, match=r"not fit .* in bfloat16: CUDA out.*--max-num-seqs"):
        GpuRunner.load(CONFIG, EngineConfig(dtype="bfloat16"), tensors, device=device)


def test_what_does_not_fit_is_named(make_runner: MakeGpuRunner) -> None:
    config = tiny_config()
    tensors = random_tensors(config)
    lacking = {name: t for name, t in tensors.items() if "layers.1.mlp.up" not in name}
    with pytest.raises(ModelError, match=r"lacks 1 of 21 tensors.*layers\.1\.mlp\.up_proj"):
        make_runner(config, lacking)
    with pytest.raises(ModelError, match=r"extra\.weight is unknown"):
        make_runner(config, {**tensors, "extra.weight": tensors["lm_head.weight"]})
    turned = tensors["model.layers.0.mlp.up_proj.weight"].T
    with pytest.raises(ModelError, match=r"up_proj.weight is of shape \(48, 32\).*\(32, 48\)"):
        make_runner(config, {**tensors, "model.layers.0.mlp.up_proj.weight": turned})
    odd = tiny_config(intermediate_size=40)
    with pytest.raises(ModelError, match=r"multiples of 32 for 8-bit.*40.*bfloat16"):
        make_runner(odd, random_tensors(odd), "int8")
    with pytest.raises(ModelError, match=r"KV cache of \d+ bytes, the limit is 100"):
        make_runner(config, tensors, kv_cache_bytes=100)
    with pytest.raises(ModelError, match="max_model_len must be > 0 and <= 128. Given: 129"):
        make_runner(config, tensors, max_model_len=129)
