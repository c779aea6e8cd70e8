"""`bench gpu` until it is known that the device can be used: only then is torch imported."""

from pathlib import Path

from llamastream.bench.errors import BenchError
from llamastream.engine.gpu.device import choose_device


def bench_gpu(out: Path, sections: str | None, device: str) -> None:
    """Measure a CUDA device and print the report. Raises BenchError, ConfigError."""
    if not device.startswith("cuda"):
        raise BenchError(f"device must be cuda or cuda:N. Given: {device}.", param="device")
    found = choose_device(device)
    from llamastream.bench.gpu import main  # imports torch and triton

    main(out, sections, found)
