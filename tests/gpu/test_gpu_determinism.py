"""A token's logits are the same bits whatever shares its step and however its prompt was cut."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from gpu_runners import MakeGpuRunner
from paged_steps import Chunk, all_logits, make_batch, random_ids, sampling_batch
from tiny_llama import random_tensors, tiny_config

from llamastream.config import DType
from llamastream.engine.runner import Float32, Runner

CONFIG = tiny_config(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    max_position_embeddings=600,
)
LENGTHS = [1, 17, 65, 260]  # about blocks, tiles, and spans of 256 positions
DTYPES: list[DType] = ["float32", "int8", "bfloat16", "int4"]
BUDGET = 280
COMPANIES = [0, 1, 20, 70, BUDGET - 1]  # past every number at which grids change


@pytest.fixture(scope="module", params=DTYPES)
def runner(request: pytest.FixtureRequest, make_runner: MakeGpuRunner, device: str) -> Runner:
    """Rows of every token may be asked for, so as many as there are tokens."""
    if device == "cpu" and request.param in ("bfloat16", "int4"):
        pytest.skip("the interpreter takes half a minute for each precision")
    limits = {"max_num_seqs": BUDGET, "max_num_batched_tokens": BUDGET, "max_model_len": 512}
    tensors = random_tensors(CONFIG)
    return make_runner(CONFIG, tensors, request.param, kv_cache_bytes=2**24, **limits)


@pytest.fixture(scope="module")
def expected(runner: Runner) -> list[Float32]:
    return [all_logits(runner, random_ids(CONFIG, n, seed=n)) for n in LENGTHS]


def random_steps(rng: np.random.Generator) -> Iterator[list[tuple[int, int, int]]]:
    """(sequence, start, stop) in chunks of any size and any company, until all is computed."""
    done = [0] * len(LENGTHS)
    while any(at < length for at, length in zip(done, LENGTHS, strict=True)):
        step, left = [], BUDGET
        for seq in rng.permutation(len(LENGTHS)):
            size = min(LENGTHS[seq] - done[seq], left, int(rng.choice([1, 3, 70, 200, 400])))
            if size > 0 and rng.random() < 0.8:
                step.append((int(seq), done[seq], done[seq] + size))
                done[seq], left = done[seq] + size, left - size
        if step:
            yield step


def test_any_schedule_gives_the_bits_of_each_prompt_alone(
    runner: Runner, expected: list[Float32]
) -> None:
    rng = np.random.default_rng(5)
    ends = np.cumsum([-(-n // 16) for n in LENGTHS])
    tables = np.split(rng.permutation(runner.num_blocks)[: ends[-1]], ends[:-1])
    for step in random_steps(rng):
        chunks = [
            Chunk(random_ids(CONFIG, LENGTHS[s], seed=LENGTHS[s])[a:b], a, list(tables[s]))
            for s, a, b in step
        ]
        logits = runner.run(make_batch(chunks, 16, rows="all")).logits
        wanted = np.concatenate([expected[seq][start:stop] for seq, start, stop in step])
        np.testing.assert_array_equal(logits, wanted)


def test_a_decode_step_gives_the_same_bits_in_any_company(
    runner: Runner, expected: list[Float32]
) -> None:
    length = LENGTHS[-1]
    ids = random_ids(CONFIG, length, seed=length)
    all_logits(runner, ids[:-1])  # fills blocks 0 ...
    own = Chunk(ids[-1:], length - 1, range(-(-length // 16)))
    for company in COMPANIES:
        others = [Chunk([i % 64], 0, [100 + i % 50]) for i in range(company)]
        batch = make_batch([*others[: company // 2], own, *others[company // 2 :]], 16)
        logits = runner.run(batch).logits
        assert logits is not None
        np.testing.assert_array_equal(logits[company // 2], expected[-1][-1])


def test_drawn_ids_are_the_same_alone_and_in_company(runner: Runner) -> None:
    prompts = [random_ids(CONFIG, 3 + i, seed=i) for i in range(6)]
    chunks = [Chunk(ids, 0, [i]) for i, ids in enumerate(prompts)]
    options = {"temperature": 0.9, "top_p": 0.9, "num_logprobs": 2}
    seeds = np.arange(6, dtype=np.uint64)
    together = runner.run(make_batch(chunks, 16, sampling=sampling_batch(6, seed=seeds, **options)))
    for i, chunk in enumerate(chunks):
        sampling = sampling_batch(1, seed=seeds[i : i + 1], **options)
        batch = replace(make_batch([chunk], 16, sampling=sampling), return_logits=False)
        alone = runner.run(batch)
        assert alone.token_ids[0] == together.token_ids[i]
        np.testing.assert_array_equal(alone.top_logprobs[0], together.top_logprobs[i])
        assert alone.logits is None
