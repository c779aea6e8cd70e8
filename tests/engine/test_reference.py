"""The oracle against transformers, and against recorded greedy continuations of a real model."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from driver import make_request, run_all
from numpy.typing import NDArray
from safetensors.numpy import load_file
from test_block_manager import sequence
from tiny_llama import STORIES, random_tensors, tiny_config

from llamastream.config import EngineConfig, LlamaConfig, RopeScaling
from llamastream.engine.batch import BatchBuilder
from llamastream.engine.block_manager import BlockManager
from llamastream.engine.llm_engine import LLMEngine
from llamastream.engine.reference import ReferenceRunner
from llamastream.engine.scheduler import Scheduled

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason=f"needs the shared test data in {DATA}")

BOS = 1  # ends a story


def scaled(rope_type: str, **fields: float) -> LlamaConfig:
    scaling = RopeScaling(rope_type, 4.0, 16, **fields)  # type: ignore[arg-type]
    return tiny_config(rope_scaling=scaling, max_position_embeddings=64)


CONFIGS = {
    "plain": tiny_config(num_key_value_heads=4),
    "grouped heads": tiny_config(num_key_value_heads=1),
    "tied": tiny_config(tie_word_embeddings=True),
    "biased": tiny_config(attention_bias=True, attention_output_bias=True, mlp_bias=True),
    "wide heads": tiny_config(head_dim=12),
    "theta and eps": tiny_config(rope_theta=500000.0, rms_norm_eps=1e-3),
    "linear": scaled("linear"),
    "dynamic": scaled("dynamic"),
    "llama3": scaled("llama3", low_freq_factor=1.0, high_freq_factor=4.0),
}
IDS = np.random.default_rng(1).integers(0, 61, 40).tolist()


def transformers_logits(
    config: LlamaConfig, tensors: dict[str, NDArray[np.float32]], ids: Sequence[int]
) -> NDArray[np.float32]:
    """All at once; for `dynamic`, where it matters, one by one over a cache as `generate` does."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    rope: dict[str, object] = {"rope_type": "default", "rope_theta": config.rope_theta}
    max_position_embeddings = config.max_position_embeddings
    if (scaling := config.rope_scaling) is not None:
        rope |= {"rope_type": scaling.rope_type, "factor": scaling.factor}
        if scaling.rope_type == "llama3":
            rope |= {
                "original_max_position_embeddings": scaling.original_max_position_embeddings,
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
            }
        elif scaling.rope_type == "dynamic":
            # There, max_position_embeddings is the length before scaling.
            max_position_embeddings = scaling.original_max_position_embeddings
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            max_position_embeddings=max_position_embeddings,
            rms_norm_eps=config.rms_norm_eps,
            rope_parameters=rope,
            tie_word_embeddings=config.tie_word_embeddings,
            attention_bias=config.attention_bias,
            mlp_bias=config.mlp_bias,
            attn_implementation="eager",
        )
    ).eval()
    state = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    chunk = 1 if scaling is not None and scaling.rope_type == "dynamic" else len(ids)
    rows, cache = [], transformers.DynamicCache(config=model.config)
    with torch.no_grad():
        for start in range(0, len(ids), chunk):
            step = torch.tensor([ids[start : start + chunk]])
            rows.append(model(step, past_key_values=cache, use_cache=True).logits[0].numpy())
    return np.concatenate(rows)


def our_logits(runner: ReferenceRunner, ids: Sequence[int], chunk: int) -> NDArray[np.float32]:
    """Logits at the end of each chunk of `chunk` tokens."""
    blocks = BlockManager(runner.num_blocks, runner.block_size, enable_prefix_caching=False)
    builder, rows = BatchBuilder(runner.block_size), []
    seq = sequence(list(ids))
    blocks.allocate(seq)
    for stop in range(chunk, len(ids) + 1, chunk):
        seq.num_tokens = stop
        batch = builder.build([Scheduled(seq, stop - seq.num_computed_tokens)])
        result = runner.run(replace(batch, return_logits=True))
        assert result.logits is not None
        rows.append(result.logits[0])
        seq.num_computed_tokens = stop
    return np.stack(rows)


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_equal_transformers(name: str) -> None:
    config = CONFIGS[name]
    tensors = random_tensors(config)
    expected = transformers_logits(config, tensors, IDS)
    assert expected.std() > 0.5  # the comparison below means something
    runner = ReferenceRunner(config, tensors, num_blocks=16, block_size=4)
    assert np.abs(our_logits(runner, IDS, chunk=1) - expected).max() < 1e-4
    runner = ReferenceRunner(config, tensors, num_blocks=16, block_size=4)
    assert np.abs(our_logits(runner, IDS, chunk=8) - expected[7::8]).max() < 1e-4


@pytest.fixture(scope="module")
def stories() -> ReferenceRunner:
    tensors = load_file(DATA / "stories260K" / "model.safetensors")
    return ReferenceRunner(STORIES, tensors, num_blocks=64, block_size=16)


@needs_data
def test_greedy_ids_of_stories260k(stories: ReferenceRunner) -> None:
    cases = json.loads((DATA / "stories260K_greedy.json").read_text())["cases"]
    engine = LLMEngine(stories, EngineConfig())
    outcomes = run_all(
        engine,
        [
            make_request(
                str(i),
                case["prompt_ids"],
                max_tokens=len(case["greedy_ids"]),
                temperature=0,
                logprobs=5,
            )
            for i, case in enumerate(cases)
        ],
    )
    for i, case in enumerate(cases):
        assert outcomes[str(i)].token_ids == case["greedy_ids"]
        for token, top in zip(outcomes[str(i)].tokens, case["top5_logprobs_per_step"], strict=True):
            assert [token_id for token_id, _ in token.top_logprobs] == [t for t, _ in top]
            ours = [logprob for _, logprob in token.top_logprobs]
            assert ours == pytest.approx([logprob for _, logprob in top], abs=1e-4)


@needs_data
def test_long_greedy_ids_of_stories260k_end_on_bos(stories: ReferenceRunner) -> None:
    case = json.loads((DATA / "stories260K_long_greedy.json").read_text())
    request = make_request("a", case["prompt_ids"], temperature=0, stop_token_ids=frozenset({BOS}))
    outcome = run_all(LLMEngine(stories, EngineConfig()), [request])["a"]
    expected = case["greedy_ids"]
    assert outcome.token_ids[: len(expected)] == expected
