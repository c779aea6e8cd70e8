"""8 bits on the demo model, measured against our own float32."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from driver import make_request, run_all
from paged_steps import Chunk, make_batch
from tests.doubles.demo_model import demo_path
from tokenizers import Tokenizer

from llamastream.config import EngineConfig
from llamastream.engine.cpu_runner import CpuRunner
from llamastream.engine.llm_engine import LLMEngine
from llamastream.models import Checkpoint, open_checkpoint

TEXT = Path(__file__).parents[1] / "data" / "english.txt"
CHUNK = 256
QUESTION = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
    "<|im_start|>assistant\n"
)


@pytest.fixture
def demo(tmp_path: Path) -> Checkpoint:
    return open_checkpoint(str(demo_path()), cache_dir=tmp_path)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))


@pytest.mark.demo
@pytest.mark.slow
def test_int8_is_close_to_float32_on_english(demo: Checkpoint) -> None:
    ids = Tokenizer.from_str(demo.tokenizer.tokenizer_json).encode(TEXT.read_text()).ids
    assert len(ids) >= 2048
    engine = EngineConfig(max_num_seqs=1, max_num_batched_tokens=CHUNK, max_model_len=4096)
    runners = [
        CpuRunner.load(demo.config, replace(engine, dtype=dtype), demo.stored_tensors)
        for dtype in ("float32", "int8")
    ]
    divergences, agreements = [], []
    for start in range(0, len(ids), CHUNK):
        part = Chunk(ids[start : start + CHUNK], start, range(4096 // engine.block_size))
        batch = make_batch([part], engine.block_size, rows="all")
        exact, rounded = (runner.run(batch).logits for runner in runners)
        assert exact is not None and rounded is not None
        p, q = log_softmax(exact), log_softmax(rounded)
        divergences.append((np.exp(p) * (p - q)).sum(1))
        agreements.append(exact.argmax(1) == rounded.argmax(1))
    divergence, agreement = np.concatenate(divergences).mean(), np.concatenate(agreements).mean()
    print(f"mean KL divergence {divergence:.5f}, top-1 agreement {agreement:.4f}")
    assert divergence < 0.0006
    assert agreement > 0.975


@pytest.mark.demo
def test_int8_answers_a_first_question_as_float32_does(demo: Checkpoint) -> None:
    """The first token is close: log probability -1.88 in float32, -1.96 for the next best."""
    tokenizer = Tokenizer.from_str(demo.tokenizer.tokenizer_json)
    engine = EngineConfig(max_num_seqs=1, max_num_batched_tokens=CHUNK, max_model_len=512)
    runner = CpuRunner.load(demo.config, engine, demo.stored_tensors)
    request = make_request("a", tokenizer.encode(QUESTION).ids, temperature=0.0, max_tokens=7)
    answer = run_all(LLMEngine(runner, engine), [request])["a"].token_ids
    assert tokenizer.decode(answer) == "The capital of France is Paris."
