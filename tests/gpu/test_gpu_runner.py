"""The GPU runner against the NumPy oracle, float32, and on a real model."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from driver import make_request, run_all
from gpu_runners import MakeGpuRunner
from paged_steps import Chunk, all_logits, greedy_ids, make_batch, random_ids
from safetensors.numpy import load_file
from tiny_llama import STORIES, random_tensors, tiny_config

from llamastream.config import EngineConfig, LlamaConfig, RopeScaling
from llamastream.engine.llm_engine import LLMEngine
from llamastream.engine.reference import ReferenceRunner
from llamastream.engine.runner import Runner
from llamastream.errors import InternalError
from llamastream.types import Failed, Token

DATA = Path(__file__).parents[3] / "shared" / "data"
CONFIGS = {
    "plain": tiny_config(num_key_value_heads=4),
    "grouped heads": tiny_config(num_key_value_heads=1),
    "three heads to one": tiny_config(num_attention_heads=6, num_key_value_heads=2),
    "tied": tiny_config(tie_word_embeddings=True),
    "biased": tiny_config(attention_bias=True, attention_output_bias=True, mlp_bias=True),
    "wide heads": tiny_config(head_dim=12),
    "theta and eps": tiny_config(rope_theta=500000.0, rms_norm_eps=1e-3),
    "odd widths": tiny_config(hidden_size=40, intermediate_size=52),
    "dynamic": tiny_config(
        rope_scaling=RopeScaling("dynamic", 4.0, 16), max_position_embeddings=64
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_equal_the_oracle(name: str, make_runner: MakeGpuRunner) -> None:
    config = CONFIGS[name]
    tensors, ids = random_tensors(config), random_ids(config, 20, seed=1)
    expected = oracle_logits(config, tensors, ids)
    assert expected.std() > 0.5
    runner = make_runner(config, tensors)
    assert np.abs(all_logits(runner, ids, chunk=7) - expected).max() < 2e-5


def oracle_logits(
    config: LlamaConfig, tensors: dict[str, np.ndarray], ids: list[int]
) -> np.ndarray:
    return all_logits(ReferenceRunner(config, tensors, num_blocks=32, block_size=16), ids)


@pytest.mark.skipif(not DATA.exists(), reason="needs ../shared/data")
def test_greedy_ids_of_stories260k(make_runner: MakeGpuRunner) -> None:
    case = json.loads((DATA / "stories260K_greedy.json").read_text())["cases"][0]
    tensors = load_file(DATA / "stories260K" / "model.safetensors")
    runner = make_runner(STORIES, tensors, max_model_len=256)
    expected = case["greedy_ids"][:12]
    assert greedy_ids(runner, case["prompt_ids"], len(expected)) == expected


def test_the_engine_draws_the_oracles_tokens(make_runner: MakeGpuRunner) -> None:
    """Prompts in chunks beside decodes, a shared prefix, penalties: all that a step may hold.

    Without drafts each step is begun before the last one's ids are known to the host.
    """
    config = tiny_config()
    tensors = random_tensors(config)
    engine = EngineConfig(
        max_num_seqs=4, max_num_batched_tokens=16, block_size=16, speculation="off"
    )
    oracle = ReferenceRunner(config, tensors, num_blocks=32, block_size=16)
    runner = make_runner(config, tensors, max_num_seqs=4, max_num_batched_tokens=16)
    wanted, found = (answers(LLMEngine(r, engine)) for r in (oracle, runner))
    assert found == wanted
    assert len({tuple(ids) for ids in found.values()}) == len(found)


def answers(engine: LLMEngine) -> dict[str, list[int]]:
    prompt = random_ids(tiny_config(), 40, seed=4)
    options: dict[str, dict[str, object]] = {
        "greedy": {"temperature": 0},
        "drawn": {"temperature": 1.0, "top_p": 0.9},
        "penalised": {"temperature": 0.7, "frequency_penalty": 1.0, "logit_bias": ((3, 2.0),)},
        "likely": {"temperature": 1.5, "min_p": 0.2, "logprobs": 2},
        "other": {"temperature": 1.0, "top_k": 5, "seed": 8},
    }
    requests = [
        make_request(name, prompt[: 40 - 9 * number], **{"max_tokens": 4, **option})
        for number, (name, option) in enumerate(options.items())
    ]
    return {name: outcome.token_ids for name, outcome in run_all(engine, requests).items()}


def test_a_failure_on_the_device_fails_the_open_requests_and_the_engine_goes_on(
    device: str,
) -> None:
    """Found when the step's result is taken, with the next step on its way."""
    import torch

    from llamastream.engine.gpu.runner import GpuRunner
    from llamastream.engine.gpu.weights import load_weights

    config, limits = tiny_config(), EngineConfig(speculation="off", dtype="float32", block_size=16)
    limits = replace(limits, max_num_seqs=4, max_num_batched_tokens=16)
    place = torch.device(device)
    weights = load_weights(config, "float32", random_tensors(config).items(), place)
    engine = LLMEngine(GpuRunner(config, limits, weights, place), limits)
    requests = [make_request(name, [1, 2, 3], max_tokens=6) for name in "ab"]
    wanted = run_all(engine, requests)["a"].token_ids
    for request in requests:
        engine.add(request)
    assert not engine.step()  # nothing is known yet
    good = weights.norm.clone()
    weights.norm.fill_(float("nan"))
    events = [event for _ in range(3) for event in engine.step()]
    assert [event.token_id for event in events if isinstance(event, Token)] == wanted[:1] * 2
    failed = [event for event in events if isinstance(event, Failed)]
    assert [event.request_id for event in failed] == ["a", "b"]
    assert not engine.has_work and not engine.is_dead
    weights.norm.copy_(good)
    assert run_all(engine, requests)["b"].token_ids == wanted


def test_after_a_failed_step_the_runner_starts_over(make_runner: MakeGpuRunner) -> None:
    config = tiny_config()
    runner: Runner = make_runner(config, random_tensors(config), max_num_batched_tokens=16)
    ids = random_ids(config, 12, seed=6)
    before = all_logits(runner, ids)
    too_long = make_batch([Chunk(ids + ids, 0, range(2))], 16)
    with pytest.raises(InternalError, match="<= 16 tokens. Given: 24"):
        runner.run(too_long)
    np.testing.assert_array_equal(all_logits(runner, ids), before)
    runner.close()
    with pytest.raises(InternalError, match="closed"):
        all_logits(runner, ids)
