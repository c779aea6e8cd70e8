"""Which device computes. Imports torch only where there is an NVIDIA driver, or one is asked for.

A start on a CPU must not pay for what it does not use.
"""

import ctypes
import importlib
import importlib.metadata
import logging
from importlib.util import find_spec
from typing import Any

from llamastream.errors import ConfigError

logger = logging.getLogger(__name__)

DRIVER = "libcuda.so.1"
MIN_VERSIONS = {"torch": (2, 11), "triton": (3, 6)}
MIN_CAPABILITY = (8, 0)  # Ampere: the first with bfloat16 matrix instructions
INSTALL = "pip install 'llamastream[gpu]'"


def choose_device(name: str) -> str:
    """ "cpu" or "cuda:N" for auto, cpu, cuda or cuda:N. Raises ConfigError for a CUDA device that
    was asked for by name and cannot be used."""
    if name == "cpu" or (name == "auto" and not has_driver()):
        return "cpu"
    index = int(name.partition(":")[2] or 0)
    try:
        _check_packages()
        _check_cuda(importlib.import_module("torch"), index)
    except ConfigError as error:
        if name != "auto":
            raise
        logger.info("computing on the CPU: %s", error.message)
        return "cpu"
    return f"cuda:{index}"


def has_driver() -> bool:
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        return False
    return True


def _check_packages() -> None:
    """Versions are read from the packages' metadata: importing torch takes seconds."""
    for package, wanted in MIN_VERSIONS.items():
        if find_spec(package) is None:
            raise ConfigError(
                f"--device cuda needs {package}, which is not installed: {INSTALL}, or use "
                "--device cpu."
            )
        version = importlib.metadata.version(package)
        if tuple(int(part) for part in version.split(".")[:2]) < wanted:
            lowest = ".".join(map(str, wanted))
            raise ConfigError(f"{package} must be >= {lowest}. Given: {version}. {INSTALL}.")


def _check_cuda(torch: Any, index: int) -> None:
    if not torch.cuda.is_available():
        raise ConfigError(
            f"PyTorch {torch.__version__} finds no CUDA device. Check nvidia-smi, and that PyTorch "
            "was built for CUDA, or use --device cpu."
        )
    count = torch.cuda.device_count()
    if index >= count:
        raise ConfigError(f"--device cuda:N must have N < {count}. Given: {index}.")
    capability = torch.cuda.get_device_capability(index)
    if capability < MIN_CAPABILITY:
        raise ConfigError(
            f"The GPU must have compute capability >= 8.0, for bfloat16. Given: "
            f"{capability[0]}.{capability[1]} ({torch.cuda.get_device_name(index)}). "
            "Use --device cpu."
        )
