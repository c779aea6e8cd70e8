"""Matrix product of a step's tokens with weights of 32, 16, 8 or 4 bits, one kernel for all sizes.

Weights are the left operand and tokens the right one, so the number of tokens changes only the
width of the matrix instruction, never the order in which one output's products are added. K is cut
into SPLITS fixed parts, each summed from zero; the parts are added in rising order, by the kernel
that reads them (few tokens: the parts run side by side) or here (many tokens: one after another).
"""

import triton
import triton.language as tl

from llamastream.engine.gpu.products import product, widened


@triton.jit
def _part(
    x,
    weights,
    scales,
    rows,
    tokens,
    num_tokens,
    split,
    K: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """Sum over part `split` of K. Returns (rows, tokens), float32."""
    NUM_GROUPS: tl.constexpr = (K + GROUP - 1) // GROUP
    PER_SPLIT: tl.constexpr = (NUM_GROUPS + SPLITS - 1) // SPLITS
    HALF: tl.constexpr = GROUP // 2
    begin = split * PER_SPLIT
    end = min(begin + PER_SPLIT, NUM_GROUPS)
    total = tl.zeros((rows.shape[0], tokens.shape[0]), tl.float32)
    nothing = total
    known = tokens[None, :] < num_tokens
    x_columns = x + tokens[None, :].to(tl.int64) * K
    if BITS == 4:  # a byte holds weight k of the group's first half, and above it that of the other
        k = tl.arange(0, HALF)
        w_rows = weights + rows[:, None].to(tl.int64) * (K // 2)
        for group in range(begin, end):
            pair = tl.load(w_rows + (group * HALF + k)[None, :])
            x_first = tl.load(x_columns + (group * GROUP + k)[:, None], mask=known, other=0.0)
            x_second = tl.load(
                x_columns + (group * GROUP + HALF + k)[:, None], mask=known, other=0.0
            )
            first = widened((pair & 15).to(tl.int8) - 8, x_first)
            second = widened((pair >> 4).to(tl.int8) - 8, x_second)
            partial = product(first, x_first, nothing)
            partial = product(second, x_second, partial)
            scale = tl.load(scales + rows * NUM_GROUPS + group).to(tl.float32)
            total = tl.fma(partial, tl.broadcast_to(scale[:, None], partial.shape), total)
    else:
        k = tl.arange(0, GROUP)
        w_rows = weights + rows[:, None].to(tl.int64) * K
        for group in range(begin, end):
            at = group * GROUP + k
            if K % GROUP == 0:
                w = tl.load(w_rows + at[None, :])
                columns = tl.load(x_columns + at[:, None], mask=known, other=0.0)
            else:
                w = tl.load(w_rows + at[None, :], mask=at[None, :] < K, other=0.0)
                columns = tl.load(
                    x_columns + at[:, None], mask=known & (at[:, None] < K), other=0.0
                )
            if BITS == 8:
                partial = product(widened(w, columns), columns, nothing)
                scale = tl.load(scales + rows * NUM_GROUPS + group).to(tl.float32)
                total = tl.fma(partial, tl.broadcast_to(scale[:, None], partial.shape), total)
            else:
                total = product(w, columns, total)
    return total


@triton.jit(do_not_specialize=["num_tokens"])
def linear_kernel(
    x,
    weights,
    scales,
    bias,
    out,
    num_tokens,
    N: tl.constexpr,
    K: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    SPLITS: tl.constexpr,
    SIDE_BY_SIDE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    GATED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """x: (T, K). weights: (N rounded up to 128, K), or K // 2 bytes; scales: (N, K / GROUP).

    out: (SPLITS if SIDE_BY_SIDE else 1, T, N) float32. With GATED, rows of `weights` alternate
    between gate and up, SPLITS is 1 and out is silu(gate) * up: (T, N // 2), in x's precision.
    """
    tokens = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    rows = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(2)
    total = _part(x, weights, scales, rows, tokens, num_tokens, split, K, BITS, GROUP, SPLITS)
    if HAS_BIAS:
        if split == 0:
            total += tl.load(bias + rows, mask=rows < N, other=0.0).to(tl.float32)[:, None]
    if not SIDE_BY_SIDE:
        for later in range(1, SPLITS):
            total += _part(
                x, weights, scales, rows, tokens, num_tokens, later, K, BITS, GROUP, SPLITS
            )
    known = tokens < num_tokens
    if GATED:
        pairs = tl.permute(tl.reshape(total, (BLOCK_N // 2, 2, BLOCK_T)), (0, 2, 1))
        gate, up = tl.split(pairs)
        y = gate / (1.0 + tl.exp(-gate)) * up
        columns = tl.program_id(1) * (BLOCK_N // 2) + tl.arange(0, BLOCK_N // 2)
        at = out + tokens[None, :].to(tl.int64) * (N // 2) + columns[:, None]
        inside = known[None, :] & (columns < N // 2)[:, None]
        tl.store(at, y.to(out.dtype.element_ty), mask=inside)
    else:
        start = out + split.to(tl.int64) * num_tokens * N
        at = start + tokens[None, :].to(tl.int64) * N + rows[:, None]
        tl.store(at, total, mask=known[None, :] & (rows < N)[:, None])
