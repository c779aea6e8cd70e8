"""A token's logits are the same bits whatever shares its step and however its prompt was cut."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import cycle

import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from paged_steps import Chunk, all_logits, make_batch, random_ids, sampling_batch
from tiny_llama import random_tensors, tiny_config

from llamastream.config import EngineConfig, LlamaConfig
from llamastream.engine import _core
from llamastream.engine.cpu_runner import CpuRunner
from llamastream.engine.runner import Float32
from llamastream.spec import StoredTensor

CONFIG = tiny_config(
    vocab_size=160,
    hidden_size=64,
    intermediate_size=96,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=512,
)
ENGINE = EngineConfig(max_num_seqs=32, max_num_batched_tokens=1024, block_size=16, threads=1)
LENGTHS = [1, 15, 16, 17, 127, 128, 129, 300, 511]  # about blocks, and spans of 128 positions
WIDE = replace(CONFIG, head_dim=32)  # its heads are whole groups: rounded where they are attended
CODED = replace(CONFIG, hidden_size=256, intermediate_size=512, head_dim=48, num_hidden_layers=2)
QWEN = replace(CONFIG, attention_bias=True, qk_norm=True)  # what its generations add, together
KINDS = ["int8", "int4", "float32", "coded", "qwen"]
CODES = ("Q4_0", "Q6_K", "Q4_K", "Q8_0", "IQ4_XS", "Q5_1", "Q3_K", "Q5_K", "IQ4_NL", "Q2_K", "Q5_0",
         "Q4_1")  # fmt: skip


def make_runner(
    kind: str, *, threads: int = 1, isa: str = "auto", outliers: bool = False
) -> CpuRunner:
    engine = replace(ENGINE, threads=threads, isa=isa)
    if kind == "coded":
        return CpuRunner.load(CODED, engine, partial(coded_tensors, outliers))
    config = {"int8": WIDE, "qwen": QWEN}.get(kind, CONFIG)
    dtype = "int8" if kind == "qwen" else kind
    engine = replace(engine, dtype=dtype)  # type: ignore[arg-type]
    return CpuRunner.load(config, engine, partial(tensors_of, config, outliers))


def tensors_of(config: LlamaConfig, outliers: bool) -> Iterator[tuple[str, Float32]]:
    """outliers: norms make some inputs of products 300, 3,000 and 30,000 times the others."""
    factors = cycle((300, 3_000, 30_000))
    for name, values in random_tensors(config).items():
        if outliers and name.endswith("layernorm.weight"):
            values[len(name) * 7 % len(values)] = next(factors)
        yield name, values


def coded_tensors(outliers: bool) -> Iterator[tuple[str, Float32 | StoredTensor]]:
    """Every matrix in codes of another kind, at random."""
    rng = np.random.default_rng(0)
    kinds = cycle(CODES)
    for name, values in tensors_of(CODED, outliers):
        yield name, random_codes(next(kinds), values.shape, rng) if values.ndim == 2 else values


def random_codes(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> StoredTensor:
    """Blocks of any codes, with scales that give weights of about 1 / sqrt(columns)."""
    size, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    blocks = rng.integers(0, 256, (shape[0] * shape[1] // size, block_bytes), np.uint8)
    # A scale of any size, then the one that makes them right: they are linear in it.
    places = {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "Q4_K": (0, 2), "Q5_K": (0, 2),
              "Q4_1": (0, 2), "Q5_1": (0, 2)}.get(kind, (0,))  # fmt: skip
    for factor in (1.0, None):
        if factor is None:
            values = dequantize(blocks, GGMLQuantizationType[kind])
            factor = 1 / np.sqrt(shape[1]) / values.std()
        for place in places:
            scales = factor * rng.uniform(0.5, 1.5, len(blocks))
            scales *= rng.choice([-1, 1], len(blocks)) if len(places) == 1 else 1
            blocks[:, place : place + 2] = scales.astype("<f2")[:, None].view(np.uint8)
    return StoredTensor(kind, blocks.reshape(-1), shape)


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    return [random_ids(CONFIG, length, seed=length) for length in LENGTHS]


@pytest.fixture(scope="module")
def expected(kind: str, prompts: list[list[int]]) -> list[Float32]:
    """Logits after every token, each prompt alone, in one piece, on one thread."""
    runner = make_runner(kind)
    return [all_logits(runner, ids) for ids in prompts]


def random_schedule(
    lengths: list[int], rng: np.random.Generator, budget: int = 512
) -> Iterator[list[tuple[int, int, int]]]:
    """Steps of (sequence, start, stop): every sequence in random chunks, in any company."""
    done = [0] * len(lengths)
    while any(at < length for at, length in zip(done, lengths, strict=True)):
        step, left = [], budget
        for seq in rng.permutation(len(lengths)):
            rest = min(lengths[seq] - done[seq], left)
            if rest <= 0 or rng.random() < 0.3:
                continue
            size = int(rng.choice([1, 1, 2, 7, 16, 60, 200]))
            step.append((int(seq), done[seq], done[seq] + min(size, rest)))
            done[seq], left = step[-1][2], left - min(size, rest)
        if step:
            yield step


def check_schedule(
    runner: CpuRunner, prompts: list[list[int]], expected: list[Float32], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    needed = [-(-len(ids) // 16) for ids in prompts]
    shuffled = np.split(rng.permutation(runner.num_blocks)[: sum(needed)], np.cumsum(needed)[:-1])
    checked = 0
    for step in random_schedule([len(ids) for ids in prompts], rng):
        chunks = [
            Chunk(prompts[seq][start:stop], start, list(shuffled[seq])) for seq, start, stop in step
        ]
        logits = runner.run(make_batch(chunks, 16, rows="all")).logits
        wanted = np.concatenate([expected[seq][start:stop] for seq, start, stop in step])
        np.testing.assert_array_equal(logits, wanted)
        checked += len(wanted)
    assert checked == sum(map(len, prompts))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_schedule_gives_the_bits_of_each_prompt_alone(
    kind: str, threads: int, seed: int, prompts: list[list[int]], expected: list[Float32]
) -> None:
    check_schedule(make_runner(kind, threads=threads), prompts, expected, seed)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_has_the_same_logits_whichever_other_rows_are_asked_for(
    kind: str, threads: int, seed: int, prompts: list[list[int]], expected: list[Float32]
) -> None:
    """The last layer computes only those; they may come in any order, twice, or not at all."""
    runner = make_runner(kind, threads=threads)
    rng = np.random.default_rng(seed)
    ends = np.cumsum([-(-len(ids) // 16) for ids in prompts])
    tables = [list(range(begin, end)) for begin, end in zip([0, *ends], ends, strict=False)]
    counts = set()
    for step in random_schedule([len(ids) for ids in prompts], rng, budget=96):
        chunks = [Chunk(prompts[seq][start:stop], start, tables[seq]) for seq, start, stop in step]
        wanted = np.concatenate([expected[seq][start:stop] for seq, start, stop in step])
        count = int(rng.choice([0, 1, 2, 5, len(wanted)]))
        rows = rng.integers(0, len(wanted), count, np.int32)
        batch = make_batch(chunks, 16, sampling=sampling_batch(count))
        logits = runner.run(replace(batch, logits_indices=rows)).logits
        np.testing.assert_array_equal(logits, wanted[rows])
        counts.add(count)
    assert {0, 1, 2, 5} <= counts


@pytest.mark.parametrize("isa", sorted({*_core.available_isas(), "amx-model"} - {"portable"}))
def test_every_instruction_set_gives_the_same_bits(
    kind: str, isa: str, prompts: list[list[int]], expected: list[Float32]
) -> None:
    runner = make_runner(kind, threads=2, isa=isa)
    assert runner.isa == isa
    check_schedule(runner, prompts, expected, seed=1)


def test_portable_code_gives_the_same_bits(
    kind: str, prompts: list[list[int]], expected: list[Float32]
) -> None:
    check_schedule(make_runner(kind, isa="portable"), prompts[:7], expected[:7], seed=1)


def tile_units() -> list[object]:
    """The unit itself where the processor has one; everywhere its model."""
    real = pytest.mark.skipif(
        "amx" not in _core.available_isas(), reason="no AMX here: only its model is tested"
    )
    return [pytest.param("amx", marks=real), "amx-model"]


@pytest.mark.parametrize("unit", tile_units())
def test_what_one_unit_read_another_goes_on_with(
    kind: str, unit: str, prompts: list[list[int]], expected: list[Float32]
) -> None:
    """A prompt on the tile unit, its answer without: as after a restart on another machine."""
    ids, wanted = prompts[-2], expected[-2]
    first, then = make_runner(kind, isa=unit), make_runner(kind, isa="portable")
    table, read = list(range(len(ids) // 16 + 1)), len(ids) - 12
    logits = first.run(make_batch([Chunk(ids[:read], 0, table)], 16, rows="all")).logits
    np.testing.assert_array_equal(logits, wanted[:read])
    for block in table:
        then.block(block)[:] = first.block(block)
    for at in range(read, len(ids)):
        logits = then.run(make_batch([Chunk([ids[at]], at, table)], 16)).logits
        np.testing.assert_array_equal(logits[0], wanted[at])


@pytest.mark.parametrize("isa", sorted({*_core.available_isas(), "amx-model"} - {"portable"}))
@pytest.mark.parametrize("kind", ["int8", "int4", "coded"], indirect=True)
def test_inputs_far_beyond_the_rest_are_the_same_on_every_instruction_set(
    kind: str, isa: str
) -> None:
    """300, 3,000 and 30,000 times the mean, in channels of some layers, as large models have."""
    ids = random_ids(CONFIG, 40, seed=8)
    wanted = all_logits(make_runner(kind, isa="portable", outliers=True), ids)
    assert np.isfinite(wanted).all()
    runner = make_runner(kind, isa=isa, outliers=True)
    for chunk in (40, 17, 3):
        np.testing.assert_array_equal(all_logits(runner, ids, chunk=chunk), wanted)


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("chunk", [1, 13, 128, 500])
def test_every_chunking_of_a_long_prompt(
    kind: str, chunk: int, threads: int, prompts: list[list[int]], expected: list[Float32]
) -> None:
    runner = make_runner(kind, threads=threads)
    np.testing.assert_array_equal(all_logits(runner, prompts[-1], chunk=chunk), expected[-1])


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_drawn_ids_and_logprobs_are_the_same_alone_and_among_31(
    kind: str, temperature: float
) -> None:
    runner = make_runner(kind, threads=2)
    prompts = [random_ids(CONFIG, 3 + 9 * (i % 6), seed=i) for i in range(32)]
    tables = [list(range(i * 4, i * 4 + 4)) for i in range(32)]
    options = {"temperature": temperature, "num_logprobs": 5, "top_p": 0.95}
    seeds = np.arange(32, dtype=np.uint64) * np.uint64(1 << 40)
    together = runner.run(
        make_batch(
            [Chunk(ids, 0, table) for ids, table in zip(prompts, tables, strict=True)],
            16,
            sampling=sampling_batch(32, seed=seeds, **options),
        )
    )
    for i, ids in enumerate(prompts):
        sampling = sampling_batch(1, seed=seeds[i : i + 1], **options)
        alone = runner.run(make_batch([Chunk(ids, 0, tables[-i])], 16, sampling=sampling))
        assert alone.token_ids[0] == together.token_ids[i]
        assert alone.logprobs[0] == together.logprobs[i]
        np.testing.assert_array_equal(alone.top_ids[0], together.top_ids[i])
        np.testing.assert_array_equal(alone.top_logprobs[0], together.top_logprobs[i])


def test_stale_values_of_a_former_sequence_never_reach_the_next(kind: str) -> None:
    """A freed block keeps its old keys and values; what lies beyond a context must not count."""
    runner = make_runner(kind)
    ids = random_ids(CONFIG, 21, seed=5)
    clean = all_logits(runner, ids)
    noise = random_ids(CONFIG, 200, seed=6)
    runner.run(make_batch([Chunk(noise, 0, list(range(13)))], 16))
    np.testing.assert_array_equal(all_logits(runner, ids, chunk=5), clean)
