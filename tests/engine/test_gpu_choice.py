"""Which device is taken, without a GPU: no torch on the CPU path, and errors name the way out."""

import subprocess
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
from tiny_llama import random_tensors, tiny_config

from llamastream.config import EngineConfig, ModelSettings
from llamastream.engine.cpu_runner import CpuRunner
from llamastream.engine.gpu import device
from llamastream.engine.gpu.device import choose_device
from llamastream.errors import ConfigError, ModelError

WITHOUT_TORCH = """
import sys
from llamastream.app import choose_device
assert choose_device("cpu") == "cpu"
assert not {"torch", "triton"} & set(sys.modules)
"""


def a_torch(*, count: int, capability: tuple[int, int]) -> SimpleNamespace:
    cuda = SimpleNamespace(
        is_available=lambda: count > 0,
        device_count=lambda: count,
        get_device_capability=lambda index: capability,
        get_device_name=lambda index: "Old One",
    )
    return SimpleNamespace(cuda=cuda, __version__="2.11.0")


def test_the_cpu_path_imports_neither_torch_nor_triton() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH], check=True)


@pytest.mark.skipif(device.has_driver(), reason="an NVIDIA driver is here")
def test_auto_takes_the_cpu_where_there_is_no_driver() -> None:
    assert choose_device("auto") == "cpu"


@pytest.mark.skipif(find_spec("triton") is not None, reason="triton is installed")
def test_a_missing_package_is_named_with_how_to_get_it() -> None:
    with pytest.raises(ConfigError, match=r"needs triton.*pip install 'llamastream\[gpu\]'"):
        choose_device("cuda")


@pytest.mark.parametrize(
    "count, capability, index, message",
    [
        (0, (9, 0), 0, "finds no CUDA device.*nvidia-smi.*--device cpu"),
        (2, (9, 0), 2, "N < 2. Given: 2"),
        (1, (7, 5), 0, r">= 8\.0.*7\.5 \(Old One\)"),
    ],
)
def test_an_unusable_device_is_refused(
    count: int, capability: tuple[int, int], index: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        device._check_cuda(a_torch(count=count, capability=capability), index)
    device._check_cuda(a_torch(count=1, capability=(8, 0)), 0)


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cpu:1", ""])
def test_other_names_are_refused_with_the_option(name: str) -> None:
    with pytest.raises(ConfigError, match="--device"):
        ModelSettings.load({"device": name}, {})


def test_precisions_of_a_gpu_are_refused_on_a_cpu() -> None:
    config = tiny_config()
    with pytest.raises(ModelError, match="Given: bfloat16. Use --dtype int8, or --device cuda"):
        CpuRunner.load(config, EngineConfig(dtype="bfloat16"), random_tensors(config).items)
