"""The launches of one step, in order. Knows no batch and no graph: all it reads lies on the device.

Between two matrix products the sums lie in float32 "parts" (see linear.py); whichever kernel reads
them next adds them. The residual stays float32 throughout.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton

from llamastream.config import LlamaConfig
from llamastream.engine.gpu.attention import attention_kernel, merge_kernel
from llamastream.engine.gpu.linear import linear_kernel
from llamastream.engine.gpu.rows import embed_kernel, norm_kernel, rotate_kernel
from llamastream.engine.gpu.step_input import Bucket, Limits
from llamastream.engine.gpu.weights import Matrix, Weights

SPAN = 256  # positions that share a softmax before they are merged; fixed: it decides the sums
TILE = 64  # positions of one matrix instruction's height
HEADS = 8  # heads that one program of rotate_kernel turns
MAX_SIDE_BY_SIDE_TOKENS = 256  # beyond, parts of a sum are added in one program
ATTENTION_PROGRAMS_WANTED = 264  # twice an H100's multiprocessors: then spans need not be spread
# No multiplication is fused with an addition unless a kernel says so: the compiler might otherwise
# choose differently for two sizes of the same kernel.
EXACT = {"enable_fp_fusion": False}


class Tile(NamedTuple):
    """How `linear_kernel` is cut. Any may serve any step: they differ in speed only."""

    block_n: int
    block_t: int
    num_warps: int
    num_stages: int


TILES = {  # by the largest number of tokens
    16: Tile(64, 16, 4, 5),
    32: Tile(64, 32, 4, 5),
    64: Tile(64, 64, 4, 4),
    256: Tile(64, 128, 4, 4),
    10**9: Tile(128, 128, 8, 3),
}
QUANTISED_TILE = Tile(128, 64, 8, 3)  # for many tokens: two sums are kept, so fewer fit
ORACLE_TILE = Tile(64, 16, 4, 2)  # float32, without matrix instructions


def choose_tile(num_tokens: int, bits: int) -> Tile:
    if bits == 32:
        return ORACLE_TILE
    limit = min(limit for limit in TILES if limit >= num_tokens)
    return QUANTISED_TILE if bits < 16 and limit > 64 else TILES[limit]


@dataclass(frozen=True, slots=True)
class Cache:
    """keys, values: (L, N, K, P, D)."""

    keys: torch.Tensor
    values: torch.Tensor

    @classmethod
    def empty(
        cls,
        config: LlamaConfig,
        num_blocks: int,
        block_size: int,
        *,
        kind: torch.dtype,
        device: torch.device,
    ) -> "Cache":
        heads, dim = config.num_key_value_heads, config.head_dim
        shape = (config.num_hidden_layers, num_blocks, heads, block_size, dim)
        zeros = [torch.zeros(shape, dtype=kind, device=device) for _ in range(2)]
        return cls(*zeros)

    @property
    def block_size(self) -> int:
        return self.keys.shape[3]  # type: ignore[no-any-return]


class Workspace:
    """Every array between two kernels, made once: a step allocates nothing."""

    def __init__(
        self, config: LlamaConfig, weights: Weights, limits: Limits, device: torch.device
    ) -> None:
        def new(*shape: int, dtype: torch.dtype = weights.embedding.dtype) -> torch.Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        tokens, seqs, single = limits.max_tokens, limits.max_seqs, torch.float32
        queries = config.num_attention_heads * config.head_dim
        few = min(tokens, MAX_SIDE_BY_SIDE_TOKENS)
        matrices = [m for layer in weights.layers for m in (layer.qkv, layer.output, layer.down)]
        self.num_spans = -(-limits.max_model_len // SPAN)
        spans = min(seqs, max_spread_seqs(config)) * config.num_attention_heads * self.num_spans
        self.residual = new(tokens, config.hidden_size, dtype=single)
        self.x = new(tokens, config.hidden_size)
        self.parts = new(max(max(tokens, few * m.splits) * m.n for m in matrices), dtype=single)
        self.query = new(tokens, queries)
        self.attended = new(tokens, queries)
        self.gated = new(tokens, config.intermediate_size)
        self.span_tops = new(spans, 2, dtype=single)
        self.span_outs = new(spans, config.head_dim, dtype=single)
        self.last = new(limits.max_rows, config.hidden_size)
        self.logits = new(limits.max_rows, config.vocab_size, dtype=single)


def max_spread_seqs(config: LlamaConfig) -> int:
    """Up to so many decoding sequences have their spans computed side by side."""
    return -(-ATTENTION_PROGRAMS_WANTED // config.num_key_value_heads)


def launch_linear(
    matrix: Matrix,
    x: torch.Tensor,
    out: torch.Tensor,
    num_tokens: int,
    *,
    tile: Tile | None = None,
    gated: bool = False,
) -> int:
    """Queue a product; returns how many parts lie in `out` (see linear.py)."""
    tile = tile or choose_tile(num_tokens, matrix.bits)
    side_by_side = num_tokens <= MAX_SIDE_BY_SIDE_TOKENS
    num_parts = matrix.splits if side_by_side else 1
    grid = (-(-num_tokens // tile.block_t), -(-matrix.n // tile.block_n), num_parts)
    linear_kernel[grid](
        x,
        matrix.weights,
        matrix.scales,
        matrix.bias,
        out,
        num_tokens,
        N=matrix.n,
        K=matrix.k,
        BITS=matrix.bits,
        GROUP=matrix.group,
        SPLITS=matrix.splits,
        SIDE_BY_SIDE=side_by_side,
        HAS_BIAS=matrix.bias is not None,
        GATED=gated,
        BLOCK_N=tile.block_n,
        BLOCK_T=tile.block_t,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        **EXACT,
    )
    return num_parts


class Forward:
    """Queues the kernels of a step on the current stream."""

    def __init__(
        self,
        config: LlamaConfig,
        weights: Weights,
        limits: Limits,
        tables: tuple[torch.Tensor, torch.Tensor],
        step: dict[str, torch.Tensor],
        drawn: torch.Tensor,
    ) -> None:
        """tables: cosine and sine, (max_model_len, D / 2) float32. step: StepInput's arrays. drawn:
        (max_rows,) int32, where the ids of the step before lie."""
        self._config, self._weights, self._limits = config, weights, limits
        self._cos, self._sin = tables
        self._step, self._drawn = step, drawn
        self._heads = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self._work = Workspace(config, weights, limits, weights.norm.device)

    def body(self, bucket: Bucket, cache: Cache) -> None:
        """Compute all tokens of the step: the cache is written, the residual is final."""
        work, tokens = self._work, bucket.num_tokens
        hidden = self._config.hidden_size
        block = triton.next_power_of_2(hidden)
        embed_kernel[(tokens,)](
            self._step["token_ids"],
            self._drawn,
            self._weights.embedding,
            work.residual,
            hidden,
            block,
        )
        num_parts = 0  # of the last product: what the residual still lacks
        for layer, keys, values in zip(self._weights.layers, cache.keys, cache.values, strict=True):
            self._norm(layer.input_norm, tokens, num_parts)
            num_parts = launch_linear(layer.qkv, work.x, work.parts, tokens)
            self._rotate(tokens, keys, values, num_parts)
            self._attend(bucket, keys, values)
            num_parts = launch_linear(layer.output, work.attended, work.parts, tokens)
            self._norm(layer.post_norm, tokens, num_parts)
            launch_linear(layer.gate_up, work.x, work.gated, tokens, gated=True)
            num_parts = launch_linear(layer.down, work.gated, work.parts, tokens)
        self._norm(self._weights.norm, tokens, num_parts)

    def head(self, num_rows: int) -> torch.Tensor:
        """Logits (num_rows, V) float32 of the rows asked for; valid until the next step."""
        if not num_rows:
            return self._work.logits[:0]
        self._norm(self._weights.norm, num_rows, 0, rows=self._step["rows"])
        launch_linear(self._weights.head, self._work.last, self._work.logits, num_rows)
        return self._work.logits[:num_rows]

    def _norm(
        self, weight: torch.Tensor, count: int, num_parts: int, rows: torch.Tensor | None = None
    ) -> None:
        work, hidden = self._work, self._config.hidden_size
        norm_kernel[(count,)](
            work.residual,
            work.parts,
            weight,
            self._step["rows"],
            work.x if rows is None else work.last,
            count,
            self._config.rms_norm_eps,
            HIDDEN=hidden,
            NUM_PARTS=num_parts,
            GATHER=rows is not None,
            BLOCK=triton.next_power_of_2(hidden),
            num_warps=8 if hidden > 2048 else 4,
            **EXACT,
        )

    def _rotate(
        self, num_tokens: int, keys: torch.Tensor, values: torch.Tensor, num_parts: int
    ) -> None:
        """From the parts of q, k and v to `query` and the cache."""
        step, work = self._step, self._work
        H, K, D = self._heads
        rotate_kernel[(num_tokens, -(-(H + 2 * K) // HEADS))](
            work.parts,
            step["positions"],
            step["slots"],
            self._cos,
            self._sin,
            work.query,
            keys,
            values,
            num_tokens,
            H=H,
            K=K,
            D=D,
            P=self._limits.block_size,
            NUM_PARTS=num_parts,
            HEADS=HEADS,
            PAIRS=triton.next_power_of_2(D // 2),
            **EXACT,
        )

    def _attend(self, bucket: Bucket, keys: torch.Tensor, values: torch.Tensor) -> None:
        """From `query` and the cache to `attended`."""
        step, work = self._step, self._work
        H, K, D = self._heads
        spread = bucket.is_decode and bucket.num_tokens <= max_spread_seqs(self._config)
        block_d = max(16, triton.next_power_of_2(D))
        attention_kernel[(bucket.num_blocks, K, work.num_spans if spread else 1)](
            work.query,
            keys,
            values,
            step["tables"],
            step["block_seqs"],
            step["block_rows"],
            step["starts"],
            step["context_lens"],
            work.attended,
            work.span_tops,
            work.span_outs,
            math.log2(math.e) / math.sqrt(D),
            TABLE_WIDTH=self._limits.table_width,
            H=H,
            K=K,
            D=D,
            P=self._limits.block_size,
            SPAN=SPAN,
            NUM_SPANS=work.num_spans,
            TILE=TILE,
            BLOCK_D=block_d,
            ROWS=bucket.rows,
            SIDE_BY_SIDE=spread,
            num_warps=4,
            num_stages=2,
            **EXACT,
        )
        if spread:
            merge_kernel[(bucket.num_tokens, H)](
                work.span_tops,
                work.span_outs,
                step["positions"],
                step["slots"],
                work.attended,
                H=H,
                D=D,
                SPAN=SPAN,
                NUM_SPANS=work.num_spans,
                BLOCK_D=block_d,
                **EXACT,
            )
