"""The kernels of another machine, cross-compiled and run under emulation if the tools are here."""

import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
COMPILERS = ["aarch64-linux-gnu-g++", "aarch64-linux-gnu-g++-12"]
FLAGS = ["-std=c++20", "-O2", "-ffp-contract=off", "-c"]  # as CMakeLists.txt has them


@pytest.mark.slow
def test_neon_kernels_give_the_bits_of_the_portable_ones(tmp_path: Path) -> None:
    compiler = next((name for name in COMPILERS if shutil.which(name)), None)
    emulator = shutil.which("qemu-aarch64")
    if compiler is None or emulator is None:
        pytest.skip("needs g++ for aarch64 and qemu-user")
    objects = []
    for name in ("kernels", "kernels_portable", "kernels_neon", "check_kernels"):
        objects.append(str(tmp_path / f"{name}.o"))
        machine = ["-march=armv8.2-a+dotprod"] if name == "kernels_neon" else []
        source = str(CSRC / f"{name}.cpp")
        subprocess.run([compiler, *FLAGS, *machine, source, "-o", objects[-1]], check=True)
    program = str(tmp_path / "check")
    subprocess.run([compiler, "-static", *objects, "-o", program], check=True)
    result = subprocess.run(
        [emulator, "-cpu", "max", program], capture_output=True, text=True, timeout=120
    )
    assert result.stdout == "neon ok\n"
    assert result.returncode == 0
