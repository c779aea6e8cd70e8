"""The report of a GPU session: lines for the eye, beside their targets, and JSON."""

import json
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

SINGLE_SHARE = 0.80  # of the bandwidth bound, one stream in bfloat16
INT8_GAIN = 1.7  # over bfloat16, one stream
PREFILL_SHARE = 0.50  # of the measured matrix rate
DEVICE_SHARE = 0.95  # of a decode step


@dataclass(slots=True)
class GpuReport:
    """Everything measured, by section; `failed` sections with their tracebacks."""

    started: str
    versions: dict[str, str]
    ceilings: dict[str, Any] = field(default_factory=dict)
    sections: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def to_json(report: GpuReport) -> str:
    return json.dumps(asdict(report))


def lines(report: GpuReport) -> Iterator[str]:
    """One line per figure: section, name, value, target where there is one."""
    if report.ceilings:
        yield _line("ceilings", "copy, GB/s", report.ceilings["copy_bytes_per_s"] / 1e9)
        yield _line("ceilings", "read, GB/s", report.ceilings["read_bytes_per_s"] / 1e9)
        yield _line("ceilings", "matrix, TFLOP/s", report.ceilings["flops_per_s"] / 1e12)
    for name, section in report.sections.items():
        if name == "tiles":
            yield from _tile_lines(section)
        else:
            yield from _model_lines(name, section, report.sections.get("bfloat16", {}))
    for name, trace in report.failed.items():
        yield f"{name}: FAILED: {trace.strip().splitlines()[-1]}"


def _model_lines(name: str, section: dict[str, Any], bfloat16: dict[str, Any]) -> Iterator[str]:
    if "company" in section:
        equal = section["company"]["equal"]
        yield f"{name:10} same tokens alone and in company: {'yes' if equal else 'NO'}"
    if "single" in section:
        speed = _median(section["single"], "decode_tok_s")
        share = _median(section["single"], "bandwidth_share")
        target = SINGLE_SHARE if name == "bfloat16" else None
        yield _line(name, "one stream, tok/s", speed)
        yield _line(name, "one stream, share of bandwidth", share, target)
        if name != "bfloat16" and "single" in bfloat16:
            gain = speed / _median(bfloat16["single"], "decode_tok_s")
            yield _line(name, "one stream, over bfloat16", gain, INT8_GAIN)
    for part, numbers in section.items():
        if part.startswith("streams_"):
            yield _line(name, f"{part}, output tok/s", _median(numbers, "output_tok_s"))
            yield _line(name, f"{part}, step p50 ms", _median(numbers, "step_p50_ms"))
            yield _line(name, f"{part}, step p99 ms", _median(numbers, "step_p99_ms"))
        elif part.startswith("prefill_"):
            yield _line(name, f"{part}, TTFT ms", numbers["ttft_ms"])
            target = PREFILL_SHARE if part == "prefill_2048" else None
            yield _line(name, f"{part}, share of matrix rate", numbers["flops_share"], target)
        elif part == "device_share":
            yield _line(name, "device busy", numbers["share"], DEVICE_SHARE)


def _tile_lines(section: dict[str, Any]) -> Iterator[str]:
    for dtype, rows in section.items():
        for row in rows:
            yield (
                f"tiles {dtype:9} {row['matrix']:8} {row['num_tokens']:5} tokens: "
                f"{row['seconds'] * 1e6:8.1f} us {tuple(row['chosen'])}, "
                f"best {row['best_s'] * 1e6:8.1f} {tuple(row['best'])}, "
                f"torch bfloat16 {row['torch_s'] * 1e6:8.1f}"
            )


def _median(numbers: dict[str, Any], name: str) -> float:
    return float(statistics.median(round_[name] for round_ in numbers["rounds"]))


def _line(section: str, name: str, value: float, target: float | None = None) -> str:
    text = f"{section:10} {name:32} {value:12,.2f}"
    if target is None:
        return text
    return f"{text}   target {target:.2f}: {'met' if value >= target else 'MISSED'}"
