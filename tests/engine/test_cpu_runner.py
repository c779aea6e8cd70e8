"""The C++ runner against transformers and published greedy ids, and what it refuses."""

import json
import mmap
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
import transformers
from paged_steps import Chunk, all_logits, greedy_ids, make_batch, random_ids
from safetensors.numpy import load_file
from tiny_llama import STORIES, random_tensors, tiny_config

from llamastream.config import DType, EngineConfig, LlamaConfig, RopeScaling
from llamastream.engine import _core
from llamastream.engine.cpu_runner import CpuRunner, block_bytes, pack
from llamastream.errors import InternalError, ModelError

HUGE_PAGE = 2**21
SHARED = Path(__file__).parents[3] / "shared" / "data"
FLOAT32 = EngineConfig(dtype="float32", max_num_seqs=4, block_size=16, threads=2)
INT8_CONFIG = tiny_config(
    hidden_size=64, intermediate_size=96, num_attention_heads=4, head_dim=16, vocab_size=160
)


def make_runner(config: LlamaConfig, engine: EngineConfig = FLOAT32) -> CpuRunner:
    return CpuRunner.load(config, engine, lambda: random_tensors(config).items())


def transformers_classes(config: LlamaConfig) -> tuple[Any, Any]:
    """Of the published model that has these tensors."""
    if config.qk_norm:
        return transformers.Qwen3ForCausalLM, transformers.Qwen3Config
    if config.attention_bias and not config.attention_output_bias:
        return transformers.Qwen2ForCausalLM, transformers.Qwen2Config
    return transformers.LlamaForCausalLM, transformers.LlamaConfig


def transformers_logits(config: LlamaConfig, token_ids: list[int]) -> np.ndarray:
    """Logits after every token. Tokens beyond the original length are fed one by one."""
    rope: dict[str, object] = {"rope_type": "default", "rope_theta": config.rope_theta}
    scaling = config.rope_scaling
    if scaling is not None:
        rope |= {"rope_type": scaling.rope_type, "factor": scaling.factor}
    if scaling is not None and scaling.rope_type == "llama3":
        rope["original_max_position_embeddings"] = scaling.original_max_position_embeddings
        rope |= {"low_freq_factor": scaling.low_freq_factor}
        rope |= {"high_freq_factor": scaling.high_freq_factor}
    same_names = [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "max_position_embeddings",
        "rms_norm_eps",
        "tie_word_embeddings",
        "attention_bias",
        "mlp_bias",
    ]
    names = {name: getattr(config, name) for name in same_names}
    model_class, config_class = transformers_classes(config)
    model = model_class(config_class(**names, rope_parameters=rope)).float().eval()
    tensors = {name: torch.from_numpy(array) for name, array in random_tensors(config).items()}
    model.load_state_dict(tensors, strict=not config.tie_word_embeddings)
    cut = len(token_ids)
    if scaling is not None and scaling.rope_type == "dynamic":
        cut = min(cut, scaling.original_max_position_embeddings)
    with torch.no_grad():
        output = model(torch.tensor([token_ids[:cut]]), use_cache=True)
        rows, cache = [output.logits[0]], output.past_key_values
        for token in token_ids[cut:]:
            output = model(torch.tensor([[token]]), past_key_values=cache, use_cache=True)
            rows.append(output.logits[0])
    return torch.cat(rows).numpy()


CONFIGS = {
    "grouped heads": tiny_config(),
    "one kv head": tiny_config(num_key_value_heads=1),
    "as many kv heads": tiny_config(num_key_value_heads=4),
    "tied": tiny_config(tie_word_embeddings=True),
    "biased": tiny_config(attention_bias=True, attention_output_bias=True, mlp_bias=True),
    "biased queries, keys and values": tiny_config(attention_bias=True),
    "normed heads": tiny_config(qk_norm=True),
    "wide heads": tiny_config(head_dim=80, num_attention_heads=2, num_key_value_heads=1),
    "odd widths": tiny_config(hidden_size=40, intermediate_size=52, vocab_size=67),
    "linear": tiny_config(rope_scaling=RopeScaling("linear", 4.0, 32)),
    "llama3": tiny_config(rope_scaling=RopeScaling("llama3", 8.0, 32, 1.0, 4.0)),
    "dynamic": tiny_config(
        max_position_embeddings=64, rope_scaling=RopeScaling("dynamic", 2.0, 64)
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_float32_logits_equal_those_of_transformers(name: str) -> None:
    config = CONFIGS[name]
    token_ids = random_ids(config, 100, seed=1)
    runner = make_runner(config, replace(FLOAT32, max_model_len=112))
    logits = all_logits(runner, token_ids)
    np.testing.assert_allclose(logits, transformers_logits(config, token_ids), atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype, limit", [("int8", 0.03), ("int4", 0.25)])
@pytest.mark.parametrize("bias", [False, True])
def test_rounded_logits_are_close_to_float32(bias: bool, dtype: DType, limit: float) -> None:
    config = replace(INT8_CONFIG, attention_bias=bias, attention_output_bias=bias, mlp_bias=bias)
    token_ids = random_ids(config, 60, seed=2)
    exact = all_logits(make_runner(config), token_ids)
    rounded = all_logits(make_runner(config, replace(FLOAT32, dtype=dtype)), token_ids)
    error = np.abs(rounded - exact).mean() / np.abs(exact).mean()
    assert 0 < error < limit


def test_int4_halves_the_layers() -> None:
    sizes = {}
    for layers in (1, 2):
        config = replace(INT8_CONFIG, num_hidden_layers=layers)
        for dtype in ("int8", "int4"):
            engine = replace(FLOAT32, dtype=dtype)  # type: ignore[arg-type]
            sizes[dtype, layers] = pack(config, engine, random_tensors(config).items()).nbytes
    norms = 2 * 4 * INT8_CONFIG.hidden_size
    one = {dtype: sizes[dtype, 2] - sizes[dtype, 1] - norms for dtype in ("int8", "int4")}
    assert one["int4"] * 9 == one["int8"] * 5


@pytest.mark.skipif(not SHARED.exists(), reason="the shared test data is not beside the repository")
def test_greedy_ids_of_a_published_checkpoint() -> None:
    tensors = load_file(SHARED / "stories260K" / "model.safetensors")
    runner = CpuRunner.load(STORIES, FLOAT32, lambda: tensors.items())
    cases = json.loads((SHARED / "stories260K_greedy.json").read_text())["cases"]
    assert cases
    for case in cases:
        count = len(case["greedy_ids"])
        assert greedy_ids(runner, case["prompt_ids"], count) == case["greedy_ids"]


@pytest.mark.skipif(not SHARED.exists(), reason="the shared test data is not beside the repository")
def test_long_greedy_ids_of_a_published_checkpoint() -> None:
    tensors = load_file(SHARED / "stories260K" / "model.safetensors")
    runner = CpuRunner.load(STORIES, FLOAT32, lambda: tensors.items())
    case = json.loads((SHARED / "stories260K_long_greedy.json").read_text())
    count = len(case["greedy_ids"])
    assert count > 200
    assert greedy_ids(runner, case["prompt_ids"], count) == case["greedy_ids"]


def huge_bytes(path: Path) -> int:
    """Of this file, as it is mapped here, in huge pages."""
    fields = Path("/proc/self/smaps").read_text().partition(str(path))[2].split("VmFlags")[0]
    found = re.search(r"FilePmdMapped: +(\d+) kB", fields)
    return int(found[1]) * 1024 if found else 0


def test_image_lies_in_huge_pages_where_files_can(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.write_bytes(bytes(2 * HUGE_PAGE))
    with whole.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        mapped.madvise(mmap.MADV_HUGEPAGE)
        assert mapped[0] == mapped[HUGE_PAGE] == 0
        if not huge_bytes(whole):
            pytest.skip("this file system keeps files in small pages")
    config, image = tiny_config(vocab_size=60_000), tmp_path / "image"  # 15 MB
    runner = CpuRunner.load(config, FLOAT32, lambda: random_tensors(config).items(), image=image)
    assert huge_bytes(image)  # some of it at least: a full machine has no whole ones
    runner.close()


def test_image_gives_the_same_bits_without_the_tensors(tmp_path: Path) -> None:
    config, engine, image = INT8_CONFIG, replace(FLOAT32, dtype="int8"), tmp_path / "a" / "image"
    token_ids = random_ids(config, 40, seed=3)
    tensors = random_tensors(config)
    first = CpuRunner.load(config, engine, lambda: tensors.items(), image=image, key="k")
    assert [path.name for path in image.parent.iterdir()] == ["image"]
    second = CpuRunner.load(config, engine, lambda: pytest.fail("unused"), image=image, key="k")
    assert (all_logits(first, token_ids) == all_logits(second, token_ids)).all()


def replace_file(file: Path, content: bytes) -> None:
    """Another file of that name: the old one is mapped by a runner."""
    file.unlink()
    file.write_bytes(content)


@pytest.mark.parametrize("damage", ["bit", "torn", "empty", "other key", "other shape"])
def test_unusable_image_is_built_anew(damage: str, tmp_path: Path) -> None:
    config, engine, image = INT8_CONFIG, replace(FLOAT32, dtype="int8"), tmp_path / "image"
    tensors = random_tensors(config)
    good = CpuRunner.load(config, engine, lambda: tensors.items(), image=image, key="k")
    intact = image.read_bytes()
    key = "k"
    if damage == "bit":
        replace_file(image, intact[:-1000] + bytes([intact[-1000] ^ 1]) + intact[-999:])
    elif damage == "torn":
        replace_file(image, intact[: len(intact) // 2])
    elif damage == "empty":
        replace_file(image, b"")
    elif damage == "other key":
        key = "l"
    else:
        config = replace(config, vocab_size=config.vocab_size + 16)
        tensors = random_tensors(config)
    calls = []

    def read() -> list[tuple[str, np.ndarray]]:
        calls.append(1)
        return list(tensors.items())

    again = CpuRunner.load(config, engine, read, image=image, key=key)
    assert calls == [1]
    if damage in ("bit", "torn", "empty"):
        assert image.read_bytes() == intact
        ids = random_ids(config, 20, seed=4)
        assert (all_logits(good, ids) == all_logits(again, ids)).all()


def test_progress_counts_every_tensor() -> None:
    config = tiny_config()
    seen = []
    CpuRunner.load(
        config,
        FLOAT32,
        lambda: random_tensors(config).items(),
        progress=lambda done, total: seen.append((done, total)),
    )
    total = len(random_tensors(config))
    assert seen == [(done, total) for done in range(1, total + 1)]


@pytest.mark.parametrize(
    "change, words",
    [
        (("drop", "model.layers.1.mlp.up_proj.weight"), "model.layers.1.mlp.up_proj.weight"),
        (("add", "model.layers.2.mlp.up_proj.weight"), "model.layers.2.mlp.up_proj.weight"),
        (("add", "rotary.inv_freq"), "rotary.inv_freq"),
        (("shape", "model.norm.weight"), "model.norm.weight must have shape (32)"),
        (("nan", "model.norm.weight"), "NaN"),
        (("large", "model.norm.weight"), "values over 65504"),
        (("large", "model.layers.1.mlp.up_proj.weight"), "values over 65504"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change: tuple[str, str], words: str) -> None:
    config = tiny_config()
    tensors = random_tensors(config)
    kind, name = change
    if kind == "drop":
        del tensors[name]
    elif kind == "nan":
        tensors[name] = np.full_like(tensors[name], np.nan)
    elif kind == "large":
        tensors[name] = np.full_like(tensors[name], 1e5)
    else:
        tensors[name] = np.zeros((3, 3), np.float32)
    with pytest.raises(ModelError) as caught:
        CpuRunner.load(config, FLOAT32, lambda: tensors.items())
    assert words in str(caught.value)


def test_a_tensor_given_twice_is_refused() -> None:
    config = tiny_config()
    twice = [*random_tensors(config).items(), *random_tensors(config).items()]
    with pytest.raises(ModelError, match="twice"):
        CpuRunner.load(config, FLOAT32, lambda: twice)


@pytest.mark.parametrize(
    "changes, engine_changes, words",
    [
        ({"intermediate_size": 50}, {"dtype": "int8"}, "intermediate_size must be a multiple"),
        ({"hidden_size": 40}, {"dtype": "int4"}, "multiple of 32 for --dtype int4. Given: 40."),
        ({}, {"block_size": 24}, "block_size must be a multiple of 16. Given: 24."),
        ({}, {"max_model_len": 129}, "max_model_len must be > 0 and <= 128. Given: 129."),
        ({}, {"kv_cache_bytes": 20_000}, "Lower --max-model-len"),
    ],
)
def test_what_cannot_be_run_is_refused_with_numbers(
    changes: dict[str, object], engine_changes: dict[str, object], words: str
) -> None:
    engine = replace(FLOAT32, **engine_changes)  # type: ignore[arg-type]
    with pytest.raises(ModelError) as caught:
        make_runner(tiny_config(**changes), engine)
    assert words in str(caught.value)


def test_cache_takes_no_more_than_it_may() -> None:
    size = block_bytes(tiny_config(), FLOAT32)
    runner = make_runner(tiny_config(), replace(FLOAT32, kv_cache_bytes=10 * size + 1))
    assert runner.num_blocks == 10
    runner = make_runner(tiny_config(), replace(FLOAT32, kv_cache_bytes=10**9))
    assert runner.num_blocks == 4 * 128 // 16  # four sequences of the full length: more is no use


@pytest.mark.parametrize(
    "field, value, words",
    [
        ("token_ids", [1, 2, 61], "vocabulary"),
        ("positions", [0, 1, 3], "context_lens"),
        ("positions", [126, 127, 128], "max_model_len"),
        ("slot_mapping", [0, 1, -1], "slot_mapping"),
        ("block_tables", [[32]], "block_tables"),
        ("logits_indices", [3], "logits_indices"),
        ("cu_seqlens_q", [0, 2], "cu_seqlens_q"),
    ],
)
def test_a_step_out_of_bounds_is_refused(field: str, value: list[int], words: str) -> None:
    batch = make_batch([Chunk([1, 2, 3], 0, [0])], 16)
    batch = replace(batch, **{field: np.asarray(value, np.int32)})
    with pytest.raises(ValueError, match=words):
        make_runner(tiny_config()).run(batch)


def test_infinite_logits_fail_the_step_and_name_the_row() -> None:
    config = replace(tiny_config(), rms_norm_eps=1e-60)
    tensors = random_tensors(config)
    tensors["model.embed_tokens.weight"] *= 0.0
    runner = CpuRunner.load(config, FLOAT32, lambda: tensors.items())
    with pytest.raises(InternalError, match="row 0"):
        runner.run(make_batch([Chunk([1], 0, [0])], 16))


def test_a_closed_runner_says_so() -> None:
    runner = make_runner(tiny_config())
    runner.close()
    with pytest.raises(InternalError, match="closed"):
        runner.run(make_batch([Chunk([1], 0, [0])], 16))


def test_an_isa_that_is_unknown_or_not_here_is_refused() -> None:
    config = tiny_config()
    for isa in {"mmx", "amx", "i8mm", "neon", "avx2"} - set(_core.available_isas()):
        with pytest.raises(ModelError, match=f"isa must be one .*portable. Given: {isa}"):
            CpuRunner.load(config, replace(FLOAT32, isa=isa), random_tensors(config).items)


def test_a_cache_that_does_not_fit_is_refused_before_weights_are_read() -> None:
    config = replace(tiny_config(), max_position_embeddings=2**31 - 1)

    def tensors() -> NoReturn:
        raise AssertionError

    with pytest.raises(ModelError, match="needs a KV cache"):
        CpuRunner.load(config, FLOAT32, tensors)
