"""The kernels of another machine, cross-compiled and run under emulation if the tools are here."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from llamastream.engine import _core

CSRC = Path(__file__).parents[2] / "csrc"
EMULATED = Path(__file__).parent / "emulated"
COMPILERS = ["aarch64-linux-gnu-g++", "aarch64-linux-gnu-g++-12"]
FLAGS = ["-std=c++20", "-O2", "-ffp-contract=off", "-c"]  # as CMakeLists.txt has them


SOURCES = ("kernels", "codec", "check_kernels", "kernels_portable", "kernels_amx")
V3 = ["-mavx2", "-mfma", "-mf16c"]


def build(folder: Path, compiler: str, machines: dict[str, list[str]], *flags: str) -> str:
    """The program that checks kernels. machines: source (and what tells it from
    another build of it) -> what its instructions need."""
    objects = []
    for name, machine in {**{source: [] for source in SOURCES}, **machines}.items():
        objects.append(str(folder / f"{name}.o"))
        stem = name.partition("-")[0]
        folder_of = EMULATED if stem == "tile_trap" else CSRC
        source = str(folder_of / f"{stem}.cpp")
        command = [compiler, *FLAGS, *flags, *machine, source, "-o", objects[-1]]
        subprocess.run(command, check=True, capture_output=False)
    program = str(folder / "check")
    static = ["-static"] if "aarch64" in compiler else []
    subprocess.run([compiler, *static, *objects, "-o", program], check=True)
    return program


@pytest.fixture(scope="module")
def emulated_arm(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The emulator, and the program for it."""
    compiler = next((name for name in COMPILERS if shutil.which(name)), None)
    emulator = shutil.which("qemu-aarch64")
    if compiler is None or emulator is None:
        pytest.skip("needs g++ for aarch64 and qemu-user")
    dot = "-march=armv8.2-a+dotprod"
    machines = {"kernels_neon": [dot], "kernels_neon-i8mm": [dot + "+i8mm"]}
    program = build(tmp_path_factory.mktemp("arm"), compiler, machines)
    return emulator, program


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processor", "sets"),
    [("max", ["i8mm", "neon"]), ("cortex-a76", ["neon"]), ("cortex-a72", [])],
)
def test_arm_kernels_give_the_bits_of_the_portable_ones(
    emulated_arm: tuple[str, str], processor: str, sets: list[str]
) -> None:
    """The best that a processor has comes first; one without dot products has none of them."""
    emulator, program = emulated_arm
    command = [emulator, "-cpu", processor, program]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.stdout == "".join(f"{name} ok\n" for name in [*sets, "amx-model"])
    assert result.returncode == 0


@pytest.mark.slow
def test_avx512_and_vnni_kernels_give_the_bits_of_the_portable_ones(tmp_path: Path) -> None:
    """On a machine without them: on SIMDe's model of their instructions, and for the tile unit's on
    ours, to which the processor gives them one by one since it does not know them."""
    simde = os.environ.get("LLAMASTREAM_SIMDE", "/usr/include")  # of Debian's libsimde-dev
    if not Path(simde, "simde").is_dir() or "avx2" not in _core.available_isas():
        pytest.skip("needs the headers of SIMDe, and AVX2")
    model = [*V3, f"-I{EMULATED}", f"-idirafter{simde}"]
    machines = {
        "kernels_avx2": V3,
        "kernels_avx2-vnni": [*model, "-D__AVXVNNI__"],
        "kernels_avx512": model,
        "kernels_amx-real": [*model, "-mamx-tile", "-mamx-int8"],
        "tile_trap": [f"-I{CSRC}"],
    }
    program = build(tmp_path, "g++", machines, "-DLLAMASTREAM_EMULATED", "-DLLAMASTREAM_AMX")
    result = subprocess.run([program], capture_output=True, text=True, timeout=600)
    assert result.stdout == "amx ok\navx512 ok\navxvnni ok\navx2 ok\namx-model ok\n"
    assert result.returncode == 0
