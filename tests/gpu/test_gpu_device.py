"""What only a device can show: recorded graphs, and the demo model in every precision."""

from pathlib import Path

import numpy as np
import pytest
from gpu_runners import MakeGpuRunner
from paged_steps import Chunk, all_logits, greedy_ids, make_batch, random_ids
from tests.doubles.demo_model import demo_path
from tiny_llama import random_tensors, tiny_config

from llamastream.config import DType
from llamastream.engine.reference import ReferenceRunner
from llamastream.engine.runner import Float32, Runner
from llamastream.models import Checkpoint, open_checkpoint

TEXT = Path(__file__).parents[1] / "data" / "english.txt"
CHUNK = 256
LIMITS = {"max_num_seqs": CHUNK, "max_num_batched_tokens": CHUNK, "block_size": 32}

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _needs_a_device(device: str) -> None:
    if device == "cpu":
        pytest.skip("needs a CUDA device")


@pytest.fixture
def demo(tmp_path: Path) -> Checkpoint:
    return open_checkpoint(str(demo_path()), cache_dir=tmp_path)


def prompt_ids(demo: Checkpoint) -> list[int]:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_str(demo.tokenizer.tokenizer_json)
    ids: list[int] = tokenizer.encode(TEXT.read_text()).ids
    return ids


def test_a_recorded_graph_gives_the_bits_of_single_launches(make_runner: MakeGpuRunner) -> None:
    config = tiny_config(hidden_size=64, intermediate_size=96, head_dim=16)
    ids = random_ids(config, 50, seed=2)
    runner = make_runner(config, random_tensors(config), "bfloat16")
    assert runner._graphs
    recorded = all_logits(runner, ids, chunk=9)
    runner._graphs.clear()
    np.testing.assert_array_equal(all_logits(runner, ids, chunk=9), recorded)


@pytest.mark.demo
def test_greedy_ids_of_the_demo_model_are_the_oracles(
    demo: Checkpoint, make_runner: MakeGpuRunner
) -> None:
    tensors, ids = dict(demo.tensors()), prompt_ids(demo)[:32]
    oracle = ReferenceRunner(demo.config, tensors, num_blocks=8, block_size=16, max_model_len=128)
    runner = make_runner(demo.config, tensors, max_model_len=128)
    assert greedy_ids(runner, ids, 24) == greedy_ids(oracle, ids, 24)


@pytest.mark.demo
@pytest.mark.parametrize("dtype, bound", [("bfloat16", 0.001), ("int8", 0.003), ("int4", 0.3)])
def test_divergence_from_float32_on_english(
    dtype: DType, bound: float, demo: Checkpoint, make_runner: MakeGpuRunner
) -> None:
    tensors, ids = dict(demo.tensors()), prompt_ids(demo)[: 8 * CHUNK]
    exact = log_probabilities(make_runner(demo.config, tensors, **LIMITS), ids)
    rounded = log_probabilities(make_runner(demo.config, tensors, dtype, **LIMITS), ids)
    divergence = float((np.exp(exact) * (exact - rounded)).sum(1).mean())
    agreement = float((exact.argmax(1) == rounded.argmax(1)).mean())
    print(f"{dtype}: mean KL divergence {divergence:.5f}, top-1 agreement {agreement:.4f}")
    assert divergence < bound


def log_probabilities(runner: Runner, ids: list[int]) -> Float32:
    rows = []
    for start in range(0, len(ids), CHUNK):
        part = Chunk(ids[start : start + CHUNK], start, range(-(-len(ids) // 32)))
        logits = runner.run(make_batch([part], 32, rows="all")).logits
        assert logits is not None
        shifted = logits - logits.max(1, keepdims=True)
        rows.append(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))
    runner.close()
    return np.concatenate(rows)
