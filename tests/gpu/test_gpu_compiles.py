"""Every kernel compiles for an H100, with its matrix instructions and without spilled registers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gpu_runners import NEEDED

PROGRAM = Path(__file__).parent / "compile_for_hopper.py"
SHARED_BYTES = 232_448  # that a program may have there


def compiled(model: str, dtype: str) -> list[dict[str, Any]]:
    for package in ("torch", "triton"):
        pytest.importorskip(package, reason=NEEDED)
    environment = {name: v for name, v in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(PROGRAM), model, dtype]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(
    "model, dtype",
    [
        ("llama-2-7b", "bfloat16"),
        ("llama-2-7b", "int8"),
        ("llama-2-7b", "int4"),
        ("smollm2-135m", "bfloat16"),
    ],
)
def test_kernels_suit_an_h100(model: str, dtype: str) -> None:
    lines = compiled(model, dtype)
    assert {"linear_kernel", "attention_kernel", "draw_kernel"} <= {x["kernel"] for x in lines}
    for line in lines:
        assert line["stack"] == 0, line
        assert line["shared"] <= SHARED_BYTES, line
        if line["kernel"] in ("linear_kernel", "attention_kernel"):
            assert line["matrix"] and all("wgmma" in name for name in line["matrix"]), line


@pytest.mark.slow
def test_the_oracle_precision_compiles_too() -> None:
    assert any(line["kernel"] == "linear_kernel" for line in compiled("smollm2-135m", "float32"))
