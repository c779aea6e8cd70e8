"""A model's weights in device memory: matrices that belong together joined, in 32, 16, 8 or 4 bits.

Tensors come one at a time and are quantised on the device, so host memory never holds the model.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from llamastream.config import DType, LlamaConfig
from llamastream.engine.runner import Progress
from llamastream.errors import ModelError

BITS: dict[DType, int] = {"float32": 32, "bfloat16": 16, "int8": 8, "int4": 4}
ROW_MULTIPLE = 128  # rows a program may read beyond the last one
LARGEST = {8: 127.0, 4: 7.0}  # of a quantised weight, either sign
# Programs that keep every multiprocessor reading; a matrix of fewer row blocks is cut along K.
PROGRAMS_WANTED = 256
BLOCK_ROWS = 64
MAX_SPLITS = 8


@dataclass(frozen=True, slots=True)
class Matrix:
    """(n, k) weights as `linear_kernel` reads them. `group`: weights of a row that share a scale,
    or that are multiplied at once. `splits`: parts into which every sum over k is cut."""

    weights: torch.Tensor  # (n rounded up, k), or (n rounded up, k / 2) bytes
    scales: torch.Tensor | None  # (n rounded up, k / group) bfloat16
    bias: torch.Tensor | None  # (n,) float32
    n: int
    k: int
    bits: int
    group: int
    splits: int

    def put(self, rows: slice, values: torch.Tensor) -> None:
        """Store `values` (rows, k) float32 on the device, quantised if need be."""
        if self.scales is None:
            self.weights[rows] = values.to(self.weights.dtype)
            return
        groups = values.view(len(values), -1, self.group)
        largest = groups.abs().amax(2, keepdim=True)
        scales = (largest / LARGEST[self.bits]).to(self.scales.dtype)
        steps = torch.where(scales > 0, scales.float(), 1.0)
        bound = LARGEST[self.bits]
        levels = (groups / steps).round().clamp(-bound, bound).to(torch.int8)
        self.scales[rows] = scales.view(len(values), -1)
        if self.bits == 4:
            first, second = (levels + 8).to(torch.uint8).chunk(2, dim=2)
            levels = first | second << 4
        self.weights[rows] = levels.reshape(len(values), -1)

    def values(self) -> torch.Tensor:
        """What the weights stand for: (n, k) float32."""
        weights = self.weights[: self.n]
        if self.scales is None:
            return weights.float()
        groups = weights.view(self.n, self.k // self.group, -1)
        if self.bits == 4:
            groups = torch.cat([groups & 15, groups >> 4], dim=2).to(torch.int8) - 8
        return (groups * self.scales[: self.n, :, None].float()).view(self.n, self.k)


def empty_matrix(
    n: int, k: int, bits: int, device: torch.device, *, bias: bool = False, may_split: bool = True
) -> Matrix:
    """Room for (n, k) weights. Raises ModelError where k cannot be cut into groups."""
    rows = -(-n // ROW_MULTIPLE) * ROW_MULTIPLE
    group = {32: 32, 16: 64}.get(bits) or _quantised_group(k, bits)
    kinds = {32: torch.float32, 16: torch.bfloat16, 8: torch.int8, 4: torch.uint8}
    columns = k // 2 if bits == 4 else k
    scales = None
    if bits < 16:
        scales = torch.zeros(rows, k // group, dtype=torch.bfloat16, device=device)
    return Matrix(
        weights=torch.zeros(rows, columns, dtype=kinds[bits], device=device),
        scales=scales,
        bias=torch.zeros(n, device=device) if bias else None,
        n=n,
        k=k,
        bits=bits,
        group=group,
        splits=_num_splits(n, -(-k // group)) if may_split else 1,
    )


def _quantised_group(k: int, bits: int) -> int:
    for group in (128, 64, 32) if bits == 8 else (64, 32):
        if k % group == 0:
            return group
    raise ModelError(
        f"The model's widths must be multiples of 32 for {bits}-bit weights. Given: {k}. "
        "Use --dtype bfloat16."
    )


def _num_splits(n: int, num_groups: int) -> int:
    """A power of two that depends on the shape alone: it decides the order of every sum."""
    splits = 1
    while (
        splits < MAX_SPLITS
        and splits * -(-n // BLOCK_ROWS) < PROGRAMS_WANTED
        and num_groups >= splits * 4
    ):
        splits *= 2
    return splits


class Layer(NamedTuple):
    """One layer. `gate_up` alternates between rows of gate and of up."""

    input_norm: torch.Tensor  # (hidden,) float32
    qkv: Matrix
    output: Matrix
    post_norm: torch.Tensor
    gate_up: Matrix
    down: Matrix


class Weights(NamedTuple):
    embedding: torch.Tensor  # (V, hidden)
    layers: tuple[Layer, ...]
    norm: torch.Tensor  # (hidden,) float32
    head: Matrix

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in _all_tensors(self))


class _Place(NamedTuple):
    """Where a tensor of the checkpoint goes."""

    target: Matrix | torch.Tensor
    rows: slice
    shape: tuple[int, ...]
    is_bias: bool = False

    def put(self, values: torch.Tensor) -> None:
        if not isinstance(self.target, Matrix):
            self.target[self.rows] = values.to(self.target.dtype)
        elif not self.is_bias:
            self.target.put(self.rows, values)
        elif self.target.bias is not None:
            self.target.bias[self.rows] = values


def load_weights(
    config: LlamaConfig,
    dtype: DType,
    tensors: Iterable[tuple[str, Any]],
    device: torch.device,
    *,
    progress: Progress | None = None,
) -> Weights:
    """Fill the matrices from (Hugging Face name, array or tensor) pairs, in any order.

    progress: called with (tensors stored, tensors in all). Raises ModelError, naming the tensor,
    for one that is unknown, missing or of another shape.
    """
    weights = _empty(config, dtype, device)
    places = dict(_places(config, weights))
    waiting = set(places)
    for name, tensor in tensors:
        place = places.get(name)
        if place is None or tuple(tensor.shape) != place.shape:
            wanted = "unknown" if place is None else f"of shape {place.shape}"
            raise ModelError(
                f"The checkpoint does not fit its configuration: {name} is {wanted}. "
                f"Given: {tuple(tensor.shape)}."
            )
        values = torch.as_tensor(tensor, dtype=torch.float32, device=device)
        place.put(values)
        if name == "model.embed_tokens.weight" and config.tie_word_embeddings:
            weights.head.put(slice(0, config.vocab_size), values)
        waiting.discard(name)
        if progress is not None:
            progress(len(places) - len(waiting), len(places))
    if waiting:
        raise ModelError(
            f"The checkpoint lacks {len(waiting)} of {len(places)} tensors, the first is "
            f"{min(waiting)}. Fetch it again, or name another model."
        )
    return weights


def _empty(config: LlamaConfig, dtype: DType, device: torch.device) -> Weights:
    if config.qk_norm:
        raise ModelError("Norms of queries and keys are not computed on a GPU. Use --device cpu.")
    bits, hidden, inner = BITS[dtype], config.hidden_size, config.intermediate_size
    queries = config.num_attention_heads * config.head_dim
    joined = queries + 2 * config.num_key_value_heads * config.head_dim
    mlp_bias = config.mlp_bias
    layers = tuple(
        Layer(
            input_norm=torch.zeros(hidden, device=device),
            qkv=empty_matrix(joined, hidden, bits, device, bias=config.attention_bias),
            output=empty_matrix(hidden, queries, bits, device, bias=config.attention_output_bias),
            post_norm=torch.zeros(hidden, device=device),
            gate_up=empty_matrix(2 * inner, hidden, bits, device, bias=mlp_bias, may_split=False),
            down=empty_matrix(hidden, inner, bits, device, bias=mlp_bias),
        )
        for _ in range(config.num_hidden_layers)
    )
    kind = torch.float32 if bits == 32 else torch.bfloat16
    return Weights(
        embedding=torch.zeros(config.vocab_size, hidden, dtype=kind, device=device),
        layers=layers,
        norm=torch.zeros(hidden, device=device),
        head=empty_matrix(config.vocab_size, hidden, max(bits, 8), device, may_split=False),
    )


def tensor_shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """Hugging Face names and shapes of all tensors of a checkpoint."""
    weights = _empty(config, "bfloat16", torch.device("meta"))
    return {name: place.shape for name, place in _places(config, weights)}


def _places(config: LlamaConfig, weights: Weights) -> Iterator[tuple[str, _Place]]:
    hidden, inner = config.hidden_size, config.intermediate_size
    whole = slice(None)
    embedding = _Place(weights.embedding, whole, (config.vocab_size, hidden))
    yield "model.embed_tokens.weight", embedding
    yield "model.norm.weight", _Place(weights.norm, whole, (hidden,))
    if not config.tie_word_embeddings:
        rows = slice(0, config.vocab_size)
        yield "lm_head.weight", _Place(weights.head, rows, (config.vocab_size, hidden))
    for number, layer in enumerate(weights.layers):
        name = f"model.layers.{number}"
        yield f"{name}.input_layernorm.weight", _Place(layer.input_norm, whole, (hidden,))
        yield f"{name}.post_attention_layernorm.weight", _Place(layer.post_norm, whole, (hidden,))
        parts = {
            **_attention_rows(config, layer),
            "mlp.gate_proj": (layer.gate_up, slice(0, 2 * inner, 2)),
            "mlp.up_proj": (layer.gate_up, slice(1, 2 * inner, 2)),
            "mlp.down_proj": (layer.down, slice(0, hidden)),
        }
        for part, (matrix, rows) in parts.items():
            count = len(range(*rows.indices(matrix.n)))
            yield f"{name}.{part}.weight", _Place(matrix, rows, (count, matrix.k))
            if matrix.bias is not None:
                yield f"{name}.{part}.bias", _Place(matrix, rows, (count,), is_bias=True)


def _attention_rows(config: LlamaConfig, layer: Layer) -> Mapping[str, tuple[Matrix, slice]]:
    """q, k and v below one another in `qkv`; the output projection by itself."""
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    return {
        "self_attn.q_proj": (layer.qkv, slice(0, queries)),
        "self_attn.k_proj": (layer.qkv, slice(queries, queries + keys)),
        "self_attn.v_proj": (layer.qkv, slice(queries + keys, queries + 2 * keys)),
        "self_attn.o_proj": (layer.output, slice(0, layer.output.n)),
    }


def _all_tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Matrix):
        yield from (t for t in (value.weights, value.scales, value.bias) if t is not None)
    elif isinstance(value, tuple):
        for part in value:
            yield from _all_tensors(part)
