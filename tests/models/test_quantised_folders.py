"""GPTQ and AWQ folders: their codes, scales and zeros, exactly and at their own size.

The layouts were held against folders that AutoGPTQ's and AutoAWQ's own packers wrote (docs/LOG.md).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engine.paged_steps import all_logits, random_ids
from tests.models.group_packers import Codes, awq, gptq, random_codes
from weights_builders import CONFIG, random_tensors, write_folder

from llamastream.config import EngineConfig
from llamastream.engine import _core
from llamastream.engine.cpu_runner import CpuRunner, pack
from llamastream.errors import ModelError
from llamastream.models import Checkpoint, open_checkpoint

SHAPE = {**CONFIG, "hidden_size": 128, "intermediate_size": 384, "head_dim": 32}
ENGINE = EngineConfig(max_num_seqs=2, block_size=16, threads=2)
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}


def quantised(
    tmp_path: Path,
    settings: dict[str, Any],
    group: int,
    *,
    change: Callable[[dict[str, Any]], None] = lambda tensors: None,
    apart: bool = False,
    **options: Any,
) -> tuple[Checkpoint, dict[str, Codes]]:
    """A folder whose layers are quantised. apart: each matrix orders its inputs its own way."""
    rng = np.random.default_rng(0)
    tensors = {name: values.astype(np.float16) for name, values in random_tensors(SHAPE).items()}
    orders: dict[Any, Any] = {}
    codes = {}
    for name, values in list(tensors.items()):
        if ".layers." not in name or values.ndim == 1:
            continue
        module = name.removesuffix(".weight")
        shared = module if apart else (module.split(".")[2], values.shape[1])
        order = None
        if settings.get("desc_act"):
            order = orders.setdefault(shared, rng.permutation(values.shape[1]))
        codes[name] = of = random_codes(*values.shape, group, rng, order)
        del tensors[name]
        tensors |= (
            awq(module, of) if settings["quant_method"] == "awq" else gptq(module, of, **options)
        )
    change(tensors)
    config = {**SHAPE, "quantization_config": settings}
    write_folder(tmp_path / "m", config=config, tensors=tensors)
    return open_checkpoint(str(tmp_path / "m"), cache_dir=tmp_path), codes


CASES = {
    "gptq": (GPTQ, {}),
    "gptq of version 2": ({**GPTQ, "checkpoint_format": "gptq_v2"}, {"stored_offset": 0}),
    "gptq in the order of activations": ({**GPTQ, "desc_act": True}, {}),
    "awq": (AWQ, {}),
}


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("case", CASES)
def test_codes_are_kept_exactly_at_their_own_size(tmp_path: Path, case: str, group: int) -> None:
    settings, options = CASES[case]
    checkpoint, codes = quantised(tmp_path, settings, group, **options)
    assert checkpoint.dtype == settings["quant_method"].upper()
    weights = pack(checkpoint.config, ENGINE, checkpoint.stored_tensors())
    floats = dict(checkpoint.tensors())
    for entry in checkpoint.entries:
        if (of := codes.get(entry.name)) is None:
            continue
        found = np.empty(entry.shape, np.float32)
        weights.read_rows(entry.name, 0, found)
        np.testing.assert_array_equal(found, of.weight())
        np.testing.assert_array_equal(floats[entry.name], of.weight())
        assert weights.kind(entry.name) == f"Z4_{group}"
        # Codes, a scale of two bytes and a zero of one for each group.
        own = of.codes.size / 2 + 3 * of.scales.size
        assert weights.tensor_bytes(entry.name) == own


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_same_weights_whoever_computes(tmp_path: Path, case: str) -> None:
    settings, options = CASES[case]
    checkpoint, _ = quantised(tmp_path, settings, 64, **options)
    ids = random_ids(checkpoint.config, 40, seed=1)
    image = tmp_path / "image"

    def runner(dtype: str = "int8", isa: str = "auto", **how: Any) -> CpuRunner:
        engine = EngineConfig(dtype=dtype, isa=isa, max_num_seqs=2, block_size=16, threads=2)  # type: ignore
        return CpuRunner.load(checkpoint.config, engine, checkpoint.stored_tensors, **how)

    exact, floats = all_logits(runner("float32"), ids), dict(checkpoint.tensors())
    engine = EngineConfig(dtype="float32", max_num_seqs=2, block_size=16, threads=2)
    plain = CpuRunner.load(checkpoint.config, engine, floats.items)
    np.testing.assert_array_equal(all_logits(plain, ids), exact)
    rounded = all_logits(runner(image=image, key="k"), ids)
    assert np.abs(rounded - exact).mean() < 0.02 * np.abs(exact).mean()
    for chunk in (1, 13):
        again = runner(image=image, key="k")
        np.testing.assert_array_equal(all_logits(again, ids, chunk=chunk), rounded)
    for isa in (*_core.available_isas(), "amx-model"):
        np.testing.assert_array_equal(all_logits(runner(isa=isa), ids), rounded)


def test_a_stored_zero_of_15_is_a_zero_of_0(tmp_path: Path) -> None:
    """Version 1 stores zeros less 1, in 4 bits."""

    def change(tensors: dict[str, Any]) -> None:
        tensors["model.layers.0.self_attn.o_proj.qzeros"][:] = -1

    checkpoint, codes = quantised(tmp_path, GPTQ, 32, change=change)
    name = "model.layers.0.self_attn.o_proj.weight"
    of = codes[name]._replace(zeros=np.zeros_like(codes[name].zeros))
    np.testing.assert_array_equal(dict(checkpoint.tensors())[name], of.weight())


def test_biases_of_zeros_are_left_out_and_others_named(tmp_path: Path) -> None:
    def change(tensors: dict[str, Any]) -> None:
        for name in list(tensors):
            if name.endswith("qweight"):
                rows = tensors[name].shape[1]
                tensors[name.replace("qweight", "bias")] = np.full(rows, fill, np.float16)

    fill = 0.0
    checkpoint, _ = quantised(tmp_path, GPTQ, 32, change=change)
    assert not any(entry.name.endswith("bias") for entry in checkpoint.entries)
    fill = 1.0
    with pytest.raises(ModelError, match=r"proj.bias' and \d+ more are not part of the model"):
        quantised(tmp_path / "b", GPTQ, 32, change=change)


def drop(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda tensors: tensors.pop(f"model.layers.1.mlp.{name}")


@pytest.mark.parametrize(
    ("settings", "group", "change", "part"),
    [
        (GPTQ, 16, None, "groups have 16 columns, which is no multiple of 32"),
        (GPTQ, 32, drop("up_proj.scales"), "'model.layers.1.mlp.up_proj.scales' is missing"),
        ({**GPTQ, "desc_act": True}, 32, drop("up_proj.g_idx"), "group them in another order"),
        (AWQ, 32, drop("down_proj.qweight"), "down_proj.qweight' is missing"),
        (AWQ, 32, lambda t: t.update(
            {"model.layers.0.mlp.up_proj.scales": np.full((4, 384), 1e-9, np.float32)}),
         "do not fit half precision"),
        (AWQ, 32, lambda t: t.update(
            {"model.layers.0.mlp.up_proj.scales": np.ones((3, 384), np.float16)}),
         "do not fit each other in shape"),
    ],
)  # fmt: skip
def test_parts_that_make_no_matrix_are_named(
    tmp_path: Path, settings: dict[str, Any], group: int, change: Any, part: str
) -> None:
    with pytest.raises(ModelError) as caught:
        checkpoint, _ = quantised(tmp_path, settings, group, change=change or (lambda t: None))
        pack(checkpoint.config, ENGINE, checkpoint.stored_tensors())
    assert part in caught.value.message and "\n" not in caught.value.message


def test_one_order_for_matrices_that_share_their_inputs(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="have the same inputs, but group them in another order"):
        quantised(tmp_path, {**GPTQ, "desc_act": True}, 32, apart=True)


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "quantised by bitsandbytes"),
        ({"quant_method": "compressed-tensors"}, "quantised by compressed-tensors"),
        ({"quant_method": "fp8"}, "quantised by fp8"),
        ({"quant_method": "hqq"}, "quantised by hqq"),
        ({"quant_method": "eetq"}, "quantised by eetq"),
        ({"bits": 4}, "quantised by quantization_config"),
        ({**GPTQ, "bits": 3}, "quantization_config.bits must be 4. Given: 3."),
        ({**GPTQ, "checkpoint_format": "marlin"}, "must be gptq or gptq_v2. Given: 'marlin'."),
        ({**GPTQ, "is_marlin_format": True}, "must be gptq or gptq_v2. Given: 'marlin'."),
        ({**GPTQ, "dynamic": {"a": {"bits": 8}}}, "quantization_config.dynamic must be left out"),
        ({**AWQ, "version": "gemv"}, "quantization_config.version must be gemm. Given: 'gemv'."),
        ({**AWQ, "zero_point": False}, "zero_point must be true. Given: False."),
        ("nf4", "quantization_config must be an object. Given: 'nf4'."),
    ],
)
def test_other_quantisers_are_refused_by_name_with_the_way_out(
    tmp_path: Path, settings: Any, part: str
) -> None:
    write_folder(tmp_path / "m", config={**CONFIG, "quantization_config": settings})
    with pytest.raises(ModelError) as caught:
        open_checkpoint(str(tmp_path / "m"), cache_dir=tmp_path)
    assert part in caught.value.message and "config.json" in caught.value.message
    if isinstance(settings, dict):
        assert "GGUF file" in caught.value.message


def test_autogptqs_own_file_says_what_config_json_does_not(tmp_path: Path) -> None:
    checkpoint, codes = quantised(tmp_path, GPTQ, 32)
    folder = tmp_path / "m"
    write = {key: value for key, value in GPTQ.items() if key != "quant_method"}
    tensors = (folder / "model.safetensors").read_bytes()
    write_folder(folder, config=SHAPE, files={"quantize_config.json": write})
    (folder / "model.safetensors").write_bytes(tensors)
    again = open_checkpoint(str(folder), cache_dir=tmp_path)
    assert again.entries == checkpoint.entries
