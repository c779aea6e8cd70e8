"""What a GPU gives at most, and how near its matrix kernels come: inputs of `bench gpu`.

Times are of the device, by events around several launches, the median of a few such groups. Inputs
are random: products of zeros run faster than real ones.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from triton.runtime.errors import OutOfResources

from llamastream.config import DType, LlamaConfig
from llamastream.engine.gpu.forward import ORACLE_TILE, Tile, choose_tile, launch_linear
from llamastream.engine.gpu.weights import BITS, Matrix, empty_matrix

GROUPS, CALLS = 5, 5
CANDIDATES = {  # by the largest number of tokens
    64: [
        Tile(64, 16, 4, 3),
        Tile(64, 16, 4, 5),
        Tile(64, 16, 4, 7),
        Tile(128, 16, 4, 4),
        Tile(128, 16, 8, 5),
        Tile(64, 64, 4, 4),
        Tile(64, 64, 4, 6),
        Tile(128, 64, 8, 4),
    ],
    10**9: [
        Tile(64, 64, 4, 4),
        Tile(64, 128, 4, 3),
        Tile(64, 128, 4, 4),
        Tile(128, 64, 4, 4),
        Tile(128, 128, 8, 3),
        Tile(128, 128, 8, 4),
        Tile(128, 64, 8, 3),
        Tile(128, 64, 8, 5),
        Tile(64, 256, 4, 3),
        Tile(128, 256, 8, 3),
    ],
}


class Ceilings(NamedTuple):
    device: str
    copy_bytes_per_s: float  # read and written
    read_bytes_per_s: float  # read only, by torch's sum
    flops_per_s: float  # a product of bfloat16 squares, by torch


def device_time(call: Callable[[], object], device: torch.device) -> float:
    """Seconds that one call takes on the device."""
    call()
    seconds = []
    for _ in range(GROUPS):
        seconds.append(_group_time(call, device) / CALLS)
    return statistics.median(seconds)


def _group_time(call: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        start_s = time.perf_counter()
        for _ in range(CALLS):
            call()
        return time.perf_counter() - start_s
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(CALLS):
        call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def measure_ceilings(
    device: torch.device, *, num_bytes: int = 4 * 2**30, side: int = 8192
) -> Ceilings:
    left, right = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    product_s = device_time(lambda: left @ right, device)
    source = torch.randint(0, 100, (num_bytes // 4,), dtype=torch.int32, device=device)
    read_s = device_time(lambda: source.sum(dtype=torch.int32), device)
    target = torch.empty_like(source)
    copy_s = device_time(lambda: target.copy_(source), device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "interpreter"
    return Ceilings(name, 2 * num_bytes / copy_s, num_bytes / read_s, 2 * side**3 / product_s)


class TileResult(NamedTuple):
    matrix: str
    num_tokens: int
    seconds: float
    torch_s: float  # torch's own bfloat16 product of the same sizes
    chosen: Tile
    best: Tile
    best_s: float


def sweep_tiles(
    config: LlamaConfig, dtype: DType, token_counts: list[int], device: torch.device
) -> list[TileResult]:
    """Time every tile on every matrix of a layer: the table in forward.py can be set by this.

    Each product reads its weights from memory, not from the cache of the last one: copies are
    rotated until they exceed it.
    """
    heads, dim = config.num_attention_heads, config.head_dim
    joined = (heads + 2 * config.num_key_value_heads) * dim
    shapes = {
        "qkv": (joined, config.hidden_size, False),
        "output": (config.hidden_size, heads * dim, False),
        "gate_up": (2 * config.intermediate_size, config.hidden_size, True),
        "down": (config.hidden_size, config.intermediate_size, False),
        "head": (config.vocab_size, config.hidden_size, False),
    }
    results = []
    for name, (n, k, gated) in shapes.items():
        copies = 1 + 100_000_000 // (n * k) if device.type == "cuda" else 1
        matrices = [_random_matrix(n, k, BITS[dtype], device, name) for _ in range(copies)]
        for count in token_counts:
            results.append(_sweep_one(name, matrices, count, gated, device))
        del matrices
    return results


def _random_matrix(n: int, k: int, bits: int, device: torch.device, name: str) -> Matrix:
    may_split = name not in ("gate_up", "head")
    matrix = empty_matrix(n, k, bits, device, may_split=may_split)
    matrix.put(slice(0, n), torch.randn(n, k, device=device) * k**-0.5)
    return matrix


def _sweep_one(
    name: str, matrices: list[Matrix], count: int, gated: bool, device: torch.device
) -> TileResult:
    first = matrices[0]
    kind = torch.float32 if first.bits == 32 else torch.bfloat16
    x = torch.randn(count, first.k, device=device).to(kind)
    out = torch.empty(first.splits * count * first.n, device=device)
    if gated:
        out = out.to(kind)
    chosen = choose_tile(count, first.bits)
    candidates = next(tiles for limit, tiles in CANDIDATES.items() if count <= limit)
    if first.bits == 32:
        candidates = [ORACLE_TILE]

    def run(tile: Tile) -> float:
        def call() -> None:
            for matrix in matrices:
                launch_linear(matrix, x, out, count, tile=tile, gated=gated)

        try:
            return device_time(call, device) / len(matrices)
        except (RuntimeError, OutOfResources):  # more shared memory than there is
            return float("inf")

    times = {tile: run(tile) for tile in {chosen, *candidates}}
    best = min(times, key=lambda tile: times[tile])
    torch_s = _torch_time(matrices, x.bfloat16(), device)
    return TileResult(name, count, times[chosen], torch_s, chosen, best, times[best])


def _torch_time(matrices: list[Matrix], x: torch.Tensor, device: torch.device) -> float:
    n, k = matrices[0].n, matrices[0].k
    weights = [torch.randn(n, k, device=device).bfloat16() for _ in matrices]

    def call() -> None:
        for matrix in weights:
            x @ matrix.T

    return device_time(call, device) / len(weights)


def random_tensors(shapes: dict[str, tuple[int, ...]], device: torch.device, seed: int = 0) -> Any:
    """Weights of a shape nobody published, made on the device one by one."""
    generator = torch.Generator(device).manual_seed(seed)
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator, device=device)
        yield name, values * shape[-1] ** -0.5 if len(shape) == 2 else 1 + 0.1 * values
