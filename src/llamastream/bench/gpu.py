"""`llamastream bench gpu`: what one GPU session must show, from ceilings to many streams.

Also runs as a module, where the C++ core is not built. Weights are random, of Llama-2-7B's shape,
made on the device. Each section writes its numbers when it has them, and one that fails does not
keep the others from running.
"""

import json
import math
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import typer

from llamastream.bench import gpu_report
from llamastream.bench.errors import BenchError
from llamastream.bench.gpu_kernels import (
    device_time,
    measure_ceilings,
    random_tensors,
    sweep_tiles,
)
from llamastream.config import DType, EngineConfig, LlamaConfig
from llamastream.engine.gpu.runner import GpuRunner
from llamastream.engine.gpu.weights import tensor_shapes
from llamastream.engine.llm_engine import LLMEngine
from llamastream.sampling import SamplingParams
from llamastream.types import Failed, GenerationRequest, Token

LLAMA_2_7B = LlamaConfig(
    vocab_size=32000,
    hidden_size=4096,
    intermediate_size=11008,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=32,
    head_dim=128,
    max_position_embeddings=4096,
)
TINY = LlamaConfig(128, 64, 64, 1, 4, 2, 16, 128)  # to try this script under the interpreter


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure. `sections`: ceilings, tiles, then one per precision."""

    config: LlamaConfig = LLAMA_2_7B
    sections: tuple[str, ...] = ("ceilings", "bfloat16", "int8", "tiles", "int4")
    streams: tuple[int, ...] = (64, 256)
    prompt_tokens: int = 128
    output_tokens: int = 128
    single_output_tokens: int = 896  # one stream, from a context of 128 to 1,024
    prefill_tokens: tuple[int, ...] = (128, 2048)
    tile_tokens: tuple[int, ...] = (1, 64, 256, 2048)
    engine: EngineConfig = EngineConfig(
        max_num_seqs=256,
        max_num_batched_tokens=2048,
        max_prefill_beside_decode=1024,
        max_model_len=4096,
        block_size=32,
        speculation="off",
    )
    ceiling_bytes: int = 4 * 2**30
    ceiling_side: int = 8192


TINY_PLAN = Plan(
    config=TINY,
    sections=("ceilings", "float32", "tiles"),
    streams=(2,),
    prompt_tokens=4,
    output_tokens=3,
    single_output_tokens=3,
    prefill_tokens=(8,),
    tile_tokens=(1,),
    engine=EngineConfig(
        max_num_seqs=2,
        max_num_batched_tokens=16,
        max_model_len=32,
        block_size=16,
        speculation="off",
    ),
    ceiling_bytes=2**16,
    ceiling_side=64,
)


def main(
    out: Path = Path("gpu-bench.json"),
    sections: str | None = None,
    device: str = "cuda",
    tiny: bool = False,
) -> None:
    """Run the sections, write `out` after each, and print a table against the targets.

    device "cpu" is Triton's interpreter; with `tiny`, that tries the script itself.
    """
    plan = TINY_PLAN if tiny else Plan()
    if sections is not None:
        plan = replace(plan, sections=tuple(sections.split(",")))
    report = run_gpu_bench(plan, device, out, _say)
    print("\n".join(gpu_report.lines(report)))
    print(gpu_report.to_json(report), flush=True)
    if report.failed:
        raise typer.Exit(1)


def _say(line: str) -> None:
    print(line, flush=True)


def run_gpu_bench(
    plan: Plan, device_name: str, out: Path, say: Callable[[str], None]
) -> gpu_report.GpuReport:
    """Run all sections, rewriting `out` (JSON) after each."""
    device = torch.device(device_name)
    versions = {"torch": torch.__version__, "cuda": str(torch.version.cuda)}
    report = gpu_report.GpuReport(time.strftime("%Y-%m-%d %H:%M"), versions)
    for name in plan.sections:
        start_s = time.perf_counter()
        say(f"{name} ...")
        try:
            _run_section(name, plan, device, report, say)
        except Exception:  # a GPU session is short: what else can be measured is
            report.failed[name] = traceback.format_exc()
            say(report.failed[name])
        report.seconds[name] = time.perf_counter() - start_s
        say(f"{name}: {report.seconds[name]:.0f} s")
        out.write_text(gpu_report.to_json(report))
    return report


def _run_section(
    name: str,
    plan: Plan,
    device: torch.device,
    report: gpu_report.GpuReport,
    say: Callable[[str], None],
) -> None:
    if name == "ceilings":
        found = measure_ceilings(device, num_bytes=plan.ceiling_bytes, side=plan.ceiling_side)
        report.ceilings = found._asdict()
        say(str(found))
    elif name == "tiles":
        dtypes: list[DType] = ["bfloat16", "int8"] if device.type == "cuda" else ["float32"]
        tables = {d: sweep_tiles(plan.config, d, list(plan.tile_tokens), device) for d in dtypes}
        report.sections[name] = {d: [r._asdict() for r in rows] for d, rows in tables.items()}
        for row in (row for rows in tables.values() for row in rows):
            say(str(row))
    else:
        section = report.sections[name] = {}
        for part, numbers in _measure_model(plan, name, device, report):
            section[part] = numbers
            say(f"{name} {part}: {json.dumps(numbers)}")


def _measure_model(
    plan: Plan,
    name: Any,
    device: torch.device,
    report: gpu_report.GpuReport,
) -> Iterator[tuple[str, dict[str, Any]]]:
    engine = replace(plan.engine, dtype=name)
    start_s = time.perf_counter()
    shapes = tensor_shapes(plan.config)
    runner = GpuRunner.load(
        plan.config, engine, lambda: random_tensors(shapes, device), device=str(device)
    )
    try:
        yield (
            "start",
            {
                "seconds": time.perf_counter() - start_s,
                "weights_bytes": runner.weight_bytes,
                "num_blocks": runner.num_blocks,
            },
        )
        yield "company", _in_company(plan, runner, engine)
        bench = _ModelBench(plan, runner, engine, report.ceilings)
        yield "single", bench.decode(1, plan.single_output_tokens)
        for streams in plan.streams:
            yield f"streams_{streams}", bench.decode(streams, plan.output_tokens)
        for tokens in plan.prefill_tokens:
            yield f"prefill_{tokens}", bench.prefill(tokens)
        yield "device_share", bench.device_share(plan.streams[0])
    finally:
        runner.close()


class _ModelBench:
    def __init__(
        self, plan: Plan, runner: GpuRunner, engine: EngineConfig, ceilings: dict[str, float]
    ) -> None:
        self._plan, self._runner, self._engine = plan, runner, engine
        self._bandwidth = ceilings.get("copy_bytes_per_s", float("nan"))
        self._flops = ceilings.get("flops_per_s", float("nan"))

    def decode(self, streams: int, output_tokens: int) -> dict[str, Any]:
        """Two rounds of `streams` requests from their prompts to their last token."""
        return {"rounds": [self._decode_round(streams, output_tokens) for _ in range(2)]}

    def _decode_round(self, streams: int, output_tokens: int) -> dict[str, float]:
        engine = LLMEngine(self._runner, self._engine)
        _add_requests(engine, self._plan.prompt_tokens, output_tokens, streams)
        start_s = time.perf_counter()
        steps = list(_steps(engine, streams))
        whole_s = time.perf_counter() - start_s
        decoding = [step for step in steps if step.is_decode]
        if not decoding:
            raise BenchError("The streams never decoded together. Raise output_tokens.")
        seconds = np.array([step.seconds for step in decoding])
        contexts = [streams * self._plan.prompt_tokens + step.num_drawn for step in decoding]
        read = [self._runner.weight_bytes + self._runner.kv_bytes_per_token * n for n in contexts]
        return {
            "decode_tok_s": streams * len(decoding) / float(seconds.sum()),
            "output_tok_s": streams * output_tokens / whole_s,
            "step_p50_ms": float(np.percentile(seconds, 50)) * 1e3,
            "step_p99_ms": float(np.percentile(seconds, 99)) * 1e3,
            "bandwidth_share": sum(read) / float(seconds.sum()) / self._bandwidth,
        }

    def prefill(self, tokens: int) -> dict[str, Any]:
        """The time of a lone prompt until its first token, and the share of the matrix rate."""
        times_s = [_first_token_s(self._runner, self._engine, tokens, seed) for seed in range(5)]
        seconds = statistics.median(times_s[1:])
        config = self._plan.config
        width = config.num_attention_heads * config.head_dim
        flops = 2 * (_layer_weights(config) * tokens + config.vocab_size * config.hidden_size)
        flops += 2 * config.num_hidden_layers * tokens**2 * width
        return {
            "ttft_ms": seconds * 1e3,
            "tok_s": tokens / seconds,
            "flops_share": flops / seconds / self._flops,
        }

    def device_share(self, streams: int) -> dict[str, Any]:
        """Time of a decode step's kernels by themselves, queued back to back, over the time of a
        step with everything around it."""
        engine = LLMEngine(self._runner, self._engine)
        _add_requests(engine, self._plan.prompt_tokens, self._plan.output_tokens, streams)
        steps: list[float] = []
        for step in _steps(engine, streams):
            steps += [step.seconds] * step.is_decode
            if len(steps) == self._plan.output_tokens // 2:
                break
        device_s = device_time(self._runner.repeat_last_step, self._runner.device)
        wall_s = statistics.median(steps)
        return {"device_ms": device_s * 1e3, "step_ms": wall_s * 1e3, "share": device_s / wall_s}


def _layer_weights(config: LlamaConfig) -> int:
    shapes = tensor_shapes(config)
    return sum(math.prod(s) for name, s in shapes.items() if ".layers." in name and len(s) == 2)


def _prompt(vocab_size: int, tokens: int, seed: int) -> list[int]:
    ids: list[int] = np.random.default_rng(seed).integers(0, vocab_size, tokens).tolist()
    return ids


def _first_token_s(runner: GpuRunner, config: EngineConfig, tokens: int, seed: int) -> float:
    engine = LLMEngine(runner, config)
    ids = _prompt(runner.vocab_size, tokens, seed)
    engine.add(GenerationRequest("a", ids, SamplingParams(max_tokens=1, temperature=0, seed=0)))
    start_s = time.perf_counter()
    while engine.has_work:
        engine.step()
    return time.perf_counter() - start_s


class _Step(NamedTuple):
    seconds: float
    num_drawn: int  # by all streams before this step
    is_decode: bool  # every stream drew a token, and none its first


def _add_requests(engine: LLMEngine, prompt_tokens: int, output_tokens: int, streams: int) -> None:
    for number in range(streams):
        ids = _prompt(engine.admission.vocab_size, prompt_tokens, number)
        params = SamplingParams(max_tokens=output_tokens, temperature=0, seed=0)
        engine.add(GenerationRequest(str(number), ids, params))


def _steps(engine: LLMEngine, streams: int) -> Iterator[_Step]:
    """Step until all is drawn, or the caller stops. Raises BenchError for a failed request."""
    while engine.has_work:
        start_s = time.perf_counter()
        events = engine.step()
        seconds = time.perf_counter() - start_s
        for event in events:
            if isinstance(event, Failed):
                raise BenchError(f"The engine failed: {event.error.message}")
        positions = [event.position for event in events if isinstance(event, Token)]
        is_decode = len(positions) == streams and min(positions) > 0
        yield _Step(seconds, sum(positions), is_decode)


def _in_company(plan: Plan, runner: GpuRunner, config: EngineConfig) -> dict[str, Any]:
    """Whether a request draws the same tokens alone and among others, at temperature 1."""
    streams = min(plan.streams[0], config.max_num_seqs)
    alone = _drawn(runner, config, plan, range(1))
    together = _drawn(runner, config, plan, range(streams))
    return {"streams": streams, "tokens": len(alone["0"]), "equal": alone["0"] == together["0"]}


def _drawn(
    runner: GpuRunner, config: EngineConfig, plan: Plan, numbers: range
) -> dict[str, list[int]]:
    engine = LLMEngine(runner, config)
    for number in numbers:
        length = plan.prompt_tokens + number % 3
        params = SamplingParams(
            max_tokens=plan.output_tokens, temperature=1.0, top_p=0.95, seed=number
        )
        ids = _prompt(runner.vocab_size, length, number)
        engine.add(GenerationRequest(str(number), ids, params))
    drawn: dict[str, list[int]] = {str(number): [] for number in numbers}
    while engine.has_work:
        for event in engine.step():
            if isinstance(event, Token):
                drawn[event.request_id].append(event.token_id)
    return drawn


if __name__ == "__main__":
    typer.run(main)
