"""Kernels that handle one token each: embedding, norms with their residual, rotary embedding."""

import triton
import triton.language as tl


@triton.jit
def _sum_parts(parts, at, mask, stride, NUM_PARTS: tl.constexpr):
    """Add the parts that `linear_kernel` left, in rising order. `stride`: from part to part."""
    total = tl.load(parts + at, mask=mask, other=0.0)
    for part in tl.static_range(1, NUM_PARTS):
        total += tl.load(parts + part * stride + at, mask=mask, other=0.0)
    return total


@triton.jit
def known_id(ids, drawn, mask):
    """Ids, those below 0 looked up in what the step before drew: -1 - r stands for its row r.

    That step may have found no token (-1): it fails, so 0 does for what is computed behind it.
    """
    found = tl.load(drawn - 1 - ids, mask=mask & (ids < 0), other=0)
    return tl.where(ids < 0, tl.maximum(found, 0), ids)


@triton.jit
def embed_kernel(token_ids, drawn, table, residual, HIDDEN: tl.constexpr, BLOCK: tl.constexpr):
    """residual: (T, HIDDEN) float32, the embedding of each token."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    row = known_id(tl.load(token_ids + token), drawn, True).to(tl.int64)
    x = tl.load(table + row * HIDDEN + column, mask=column < HIDDEN)
    tl.store(residual + token * HIDDEN + column, x.to(tl.float32), mask=column < HIDDEN)


@triton.jit(do_not_specialize=["num_tokens"])
def norm_kernel(
    residual,
    parts,
    weight,
    rows,
    out,
    num_tokens,
    eps,
    HIDDEN: tl.constexpr,
    NUM_PARTS: tl.constexpr,
    GATHER: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Add `parts` (NUM_PARTS, T, HIDDEN) to the residual, in place, and write its norm to `out`.

    With GATHER, program r does so for token rows[r], writes out[r] and leaves the residual alone.
    """
    row = tl.program_id(0).to(tl.int64)
    token = row
    if GATHER:
        token = tl.load(rows + row).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < HIDDEN
    x = tl.load(residual + token * HIDDEN + column, mask=inside, other=0.0)
    if NUM_PARTS > 0:
        stride = num_tokens.to(tl.int64) * HIDDEN
        x += _sum_parts(parts, token * HIDDEN + column, inside, stride, NUM_PARTS)
        if not GATHER:
            tl.store(residual + token * HIDDEN + column, x, mask=inside)
    mean_square = tl.sum(x * x, 0) / HIDDEN
    y = x / tl.sqrt_rn(mean_square + eps)
    y *= tl.load(weight + column, mask=inside, other=0.0)
    tl.store(out + row * HIDDEN + column, y.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["num_tokens"])
def rotate_kernel(
    parts,
    positions,
    slots,
    cos,
    sin,
    query,
    keys,
    values,
    num_tokens,
    H: tl.constexpr,
    K: tl.constexpr,
    D: tl.constexpr,
    P: tl.constexpr,
    NUM_PARTS: tl.constexpr,
    HEADS: tl.constexpr,
    PAIRS: tl.constexpr,
):
    """Rotate pairs (i, i + D / 2) of queries and keys; store keys and values in the paged cache.

    parts: (NUM_PARTS, T, (H + 2 K) D). query: (T, H, D). keys, values: (N, K, P, D). A slot of -1
    marks a token that pads the step.
    """
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    pair = tl.arange(0, PAIRS)
    inside = (head[:, None] < H + 2 * K) & (pair[None, :] < D // 2)
    stride = num_tokens.to(tl.int64) * ((H + 2 * K) * D)
    at = (token * (H + 2 * K) + head)[:, None] * D + pair[None, :]
    first = _sum_parts(parts, at, inside, stride, NUM_PARTS)
    second = _sum_parts(parts, at + D // 2, inside, stride, NUM_PARTS)
    angle = tl.load(positions + token) * (D // 2) + pair
    c = tl.load(cos + angle, mask=pair < D // 2, other=0.0)[None, :]
    s = tl.load(sin + angle, mask=pair < D // 2, other=0.0)[None, :]
    turned_first = first * c - second * s
    turned_second = second * c + first * s
    kind = query.dtype.element_ty
    is_query = inside & (head[:, None] < H)
    q_at = query + (token * H + head)[:, None] * D + pair[None, :]
    tl.store(q_at, turned_first.to(kind), mask=is_query)
    tl.store(q_at + D // 2, turned_second.to(kind), mask=is_query)
    slot = tl.load(slots + token).to(tl.int64)
    stored = inside & (slot >= 0)
    is_key = stored & (head[:, None] >= H) & (head[:, None] < H + K)
    k_at = keys + ((slot // P * K + head - H) * P + slot % P)[:, None] * D + pair[None, :]
    tl.store(k_at, turned_first.to(kind), mask=is_key)
    tl.store(k_at + D // 2, turned_second.to(kind), mask=is_key)
    is_value = stored & (head[:, None] >= H + K)
    v_at = values + ((slot // P * K + head - H - K) * P + slot % P)[:, None] * D + pair[None, :]
    tl.store(v_at, first.to(kind), mask=is_value)
    tl.store(v_at + D // 2, second.to(kind), mask=is_value)
