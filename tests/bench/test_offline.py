"""The in-process benchmark, on a runner that computes nothing."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from llamastream.bench.errors import BenchError
from llamastream.bench.machine import Bounds
from llamastream.bench.offline import OfflineReport, run_offline
from llamastream.bench.offline_report import render, to_json
from llamastream.bench.roofline import Roofline
from llamastream.config import BenchSettings, EngineConfig
from llamastream.engine.runner import ForwardBatch, Runner, StepResult

CELLS: dict[str, Any] = {
    "concurrency": (1, 4),
    "prompt_tokens": 8,
    "output_tokens": 6,
    "prefill_tokens": 32,
    "rounds": 2,
}
CONFIG = EngineConfig(max_num_seqs=8, max_num_batched_tokens=16, block_size=4, speculation="off")
WORK = Roofline(1e6, 1000, num_layer_weights=400_000, num_head_weights=100_000)


class ConstantRunner(Runner):
    """Draws token 1 always, and keeps the prompts it saw and the contexts of every step."""

    num_blocks = 64
    block_size = 4
    max_model_len = 64
    vocab_size = 1000

    def __init__(self) -> None:
        self.context_lens: list[tuple[int, ...]] = []
        self.prompts: list[tuple[int, ...]] = []
        self.fails = False

    def run(self, batch: ForwardBatch) -> StepResult:
        if self.fails:
            raise RuntimeError("broken")
        self.context_lens.append(tuple(batch.context_lens.tolist()))
        for start, end in zip(batch.cu_seqlens_q, batch.cu_seqlens_q[1:], strict=False):
            if batch.positions[start] == 0:
                self.prompts.append(tuple(batch.token_ids[start:end].tolist()))
        rows = len(batch.logits_indices)
        return StepResult(
            token_ids=np.ones(rows, np.int32),
            logprobs=np.full(rows, np.nan, np.float32),
            top_ids=np.empty((rows, 0), np.int32),
            top_logprobs=np.empty((rows, 0), np.float32),
            logits=None,
        )

    def close(self) -> None:
        pass


def run(runner: ConstantRunner, config: EngineConfig = CONFIG, **cells: Any) -> OfflineReport:
    settings = BenchSettings(**{**CELLS, **cells})
    return run_offline(runner, config, WORK, settings, bounds=lambda: Bounds(5e9, 1e12))


def test_report_has_a_round_for_every_cell(capsys: pytest.CaptureFixture[str]) -> None:
    report = run(ConstantRunner())
    assert "round 2/2: streams at once: 4" in capsys.readouterr().err
    assert {streams: len(rounds) for streams, rounds in report.decode.items()} == {1: 2, 4: 2}
    assert len(report.prefill_tok_s) == 2
    assert min(report.prefill_tok_s) > 0


def test_no_prompt_is_ever_repeated() -> None:
    runner = ConstantRunner()
    run(runner)
    assert len(runner.prompts) > 10
    assert len(set(runner.prompts)) == len(runner.prompts)


def test_decode_speed_leaves_the_prefill_out() -> None:
    (round_,) = run(ConstantRunner(), concurrency=(4,), rounds=1).decode[4]
    # Steps of the same cost: decoding steps draw 4 tokens each, prefilling ones fewer.
    assert round_.decode_tok_s > round_.output_tok_s > 0
    assert 0 < round_.step_p50_ms <= round_.step_p99_ms
    assert round_.overhead_us > 0


def test_shares_are_what_was_reached_over_what_is_possible() -> None:
    report = run(ConstantRunner(), concurrency=(1,), rounds=1)
    (round_,) = report.decode[1]
    # Of 6 tokens the first comes with the prompt of 8; the contexts of the other 5 are 9 to 13.
    read_bytes = 1e6 + 11 * 1000
    assert round_.memory_share == pytest.approx(read_bytes * round_.decode_tok_s / 5e9)
    assert round_.compute_share == pytest.approx(2 * 500_000 * round_.decode_tok_s / 1e12)
    assert report.prefill_share == [pytest.approx(2 * 400_000 * report.prefill_tok_s[0] / 1e12)]


def test_steps_that_draw_several_tokens_say_so() -> None:
    cells = {"concurrency": (1,), "output_tokens": 30, "rounds": 1, "prefill_tokens": 0}
    (plain,) = run(ConstantRunner(), **cells).decode[1]
    assert plain.tokens_per_step == 1
    config = replace(CONFIG, speculation="auto")
    (drafted,) = run(ConstantRunner(), config, **cells).decode[1]  # which repeats itself
    assert 2 < drafted.tokens_per_step <= 17


def test_failing_engine_is_an_error() -> None:
    runner = ConstantRunner()
    runner.fails = True
    with pytest.raises(BenchError, match="the engine failed"):
        run(runner)


def test_more_streams_than_the_engine_runs_are_refused() -> None:
    with pytest.raises(BenchError, match=r"concurrency must be <= max_num_seqs \(8\).* Given: 9"):
        run(ConstantRunner(), concurrency=(1, 9))


def test_streams_that_never_meet_are_refused() -> None:
    # 16 tokens a step: the first prompt has its two tokens before the fourth is read.
    with pytest.raises(BenchError, match="never decoded together"):
        run(ConstantRunner(), concurrency=(8,), prompt_tokens=32, output_tokens=2)


def test_table_and_json_hold_every_cell() -> None:
    report = run(ConstantRunner())
    console = Console(width=140)
    with console.capture() as capture:
        console.print(render(report))
    rows = [line.split() for line in capture.get().splitlines()]
    assert [row[0] for row in rows if row and row[0] in ("1", "4")] == ["1", "4"]
    text = to_json(report)
    assert "\n" not in text
    document = json.loads(text)
    assert [cell["streams"] for cell in document["decode"]] == [1, 4]
    assert len(document["decode"][0]["rounds"]) == 2
    assert document["bounds"] == [{"bytes_per_s": 5e9, "ops_per_s": 1e12}] * 2
