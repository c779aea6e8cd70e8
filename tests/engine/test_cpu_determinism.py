"""A token's logits are the same bits whatever shares its step and however its prompt was cut."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from paged_steps import Chunk, all_logits, make_batch, random_ids, sampling_batch
from tiny_llama import random_tensors, tiny_config

from llamastream.config import EngineConfig
from llamastream.engine import _core
from llamastream.engine.cpu_runner import CpuRunner, pack
from llamastream.engine.runner import Float32

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
KINDS = ["int8", "int8 from 4 bits", "float32"]  # 4-bit values are stored in another form


def make_runner(kind: str, *, threads: int = 1, isa: str = "auto") -> CpuRunner:
    config = WIDE if kind == "int8" else CONFIG
    tensors = random_tensors(config)
    if kind == "int8 from 4 bits":
        tensors = {name: to_16_levels(name, tensor) for name, tensor in tensors.items()}
    engine = replace(ENGINE, dtype="float32" if kind == "float32" else "int8", threads=threads)
    return CpuRunner.load(config, engine, tensors.items, isa=isa)


def to_16_levels(name: str, tensor: Float32) -> Float32:
    """What a Q4_1 file holds: 16 levels between the extremes of each 32 weights."""
    if tensor.ndim == 1 or name == "lm_head.weight":  # one matrix keeps its 8 bits
        return tensor
    groups = tensor.reshape(-1, 32)
    low = groups.min(1, keepdims=True).astype(np.float16).astype(np.float32)
    step = ((groups.max(1, keepdims=True) - low) / 15).astype(np.float16).astype(np.float32)
    levels = np.clip(np.round((groups - low) / step), 0, 15)
    return (low + step * levels).astype(np.float32).reshape(tensor.shape)


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


@pytest.mark.parametrize("isa", sorted(set(_core.available_isas()) - {"portable"}))
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


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("chunk", [1, 13, 128, 500])
def test_every_chunking_of_a_long_prompt(
    kind: str, chunk: int, threads: int, prompts: list[list[int]], expected: list[Float32]
) -> None:
    runner = make_runner(kind, threads=threads)
    np.testing.assert_array_equal(all_logits(runner, prompts[-1], chunk=chunk), expected[-1])


def test_four_bit_weights_take_less_memory_and_give_the_numbers_of_eight_bits() -> None:
    tensors = {name: to_16_levels(name, tensor) for name, tensor in random_tensors(CONFIG).items()}
    small = pack(CONFIG, ENGINE, tensors.items()).nbytes
    assert small < 0.7 * pack(CONFIG, ENGINE, random_tensors(CONFIG).items()).nbytes
    ids = random_ids(CONFIG, 50, seed=7)
    exact = all_logits(CpuRunner.load(CONFIG, replace(ENGINE, dtype="float32"), tensors.items), ids)
    error = np.abs(all_logits(make_runner("int8 from 4 bits"), ids) - exact).mean()
    assert error / np.abs(exact).mean() < 0.03


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
