"""The report of a GPU session: that it comes to its end, whatever its figures are."""

import json
from pathlib import Path

import pytest
from gpu_runners import find_device


@pytest.mark.slow
def test_every_section_is_measured_and_written(tmp_path: Path) -> None:
    device = find_device()
    from llamastream.bench import gpu, gpu_report

    out, said = tmp_path / "gpu.json", list[str]()
    report = gpu.run_gpu_bench(gpu.TINY_PLAN, device, out, said.append)
    assert not report.failed, report.failed
    assert report.sections["float32"]["company"]["equal"]
    assert {*report.sections, "ceilings"} == set(gpu.TINY_PLAN.sections)
    assert json.loads(out.read_text()) == json.loads(gpu_report.to_json(report))
    assert any("device busy" in line for line in gpu_report.lines(report))
