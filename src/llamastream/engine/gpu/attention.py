"""Attention over the paged cache, for decode and prefill alike.

The past is cut into spans of SPAN absolute positions. Each span has its own softmax, computed in
tiles from the span's start; spans are merged in rising order. Short batches run the spans side by
side and merge afterwards, long ones run them one after another: the same sums either way.
Sources: online softmax, arXiv:1805.02867; split over keys, arXiv:2311.01282 (Flash-Decoding).
"""

import triton
import triton.language as tl

from llamastream.engine.gpu.products import product

NOTHING = tl.constexpr(-1.0e30)  # the maximum of no scores; finite, so that no NaN arises


@triton.jit
def _merge(top, mass, out, span_top, span_mass, span_out):
    """Join a span to those before it. top, mass: (n,); out: (D, n)."""
    new_top = tl.maximum(top, span_top)
    old, new = tl.exp2(top - new_top), tl.exp2(span_top - new_top)
    mass = tl.fma(mass, old, span_mass * new)
    old, new = tl.broadcast_to(old[None, :], out.shape), tl.broadcast_to(new[None, :], out.shape)
    return new_top, mass, tl.fma(out, old, span_out * new)


@triton.jit
def _span(
    query,
    keys,
    values,
    table,
    kv_head,
    position,
    start,
    stop,
    scale,
    K: tl.constexpr,
    D: tl.constexpr,
    P: tl.constexpr,
    TILE: tl.constexpr,
):
    """Softmax over the positions start..stop that each row may see. query: (D, n).

    Returns maximum (n,), mass (n,) and the weighted sum of values (D, n), not divided by the mass.
    """
    BLOCK_D: tl.constexpr = query.shape[0]
    ROWS: tl.constexpr = query.shape[1]
    d = tl.arange(0, BLOCK_D)
    top = tl.full((ROWS,), NOTHING, tl.float32)
    mass = tl.zeros((ROWS,), tl.float32)
    out = tl.zeros((BLOCK_D, ROWS), tl.float32)
    for tile in range(start, stop, TILE):
        at = tile + tl.arange(0, TILE)
        inside = at < stop
        block = tl.load(table + at // P, mask=inside, other=0).to(tl.int64)
        base = ((block * K + kv_head) * P + at % P) * D
        mask = inside[:, None] & (d < D)[None, :]
        key = tl.load(keys + base[:, None] + d[None, :], mask=mask, other=0.0)
        score = product(key, query, tl.zeros((TILE, ROWS), tl.float32)) * scale
        seen = at[:, None] <= position[None, :]
        score = tl.where(seen, score, NOTHING)
        new_top = tl.maximum(top, tl.max(score, 0))
        weight = tl.where(seen, tl.exp2(score - new_top[None, :]), 0.0)
        old = tl.exp2(top - new_top)
        mass = tl.fma(mass, old, tl.sum(weight, 0))
        value = tl.load(values + base[:, None] + d[None, :], mask=mask, other=0.0)
        out = product(tl.trans(value), weight.to(value.dtype), out * old[None, :])
        top = new_top
    return top, mass, out


@triton.jit
def attention_kernel(
    query,
    keys,
    values,
    tables,
    block_seqs,
    block_rows,
    starts,
    context_lens,
    out,
    span_tops,
    span_outs,
    scale,
    TABLE_WIDTH: tl.constexpr,
    H: tl.constexpr,
    K: tl.constexpr,
    D: tl.constexpr,
    P: tl.constexpr,
    SPAN: tl.constexpr,
    NUM_SPANS: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr,
    SIDE_BY_SIDE: tl.constexpr,
):
    """Program (b, kv head): ROWS rows of one sequence, a row being one token's one query head.

    block_seqs, block_rows: (B,) sequence and first row of each program, -1 for none. starts:
    (S + 1,) a sequence's first token in the step. scale: includes log2(e). out: (T, H, D). With
    SIDE_BY_SIDE: span_tops (T, H, NUM_SPANS, 2) and span_outs (T, H, NUM_SPANS, D), float32,
    are written instead, for `merge_kernel`.
    """
    seq = tl.load(block_seqs + tl.program_id(0))
    kv_head = tl.program_id(1)
    if seq >= 0:
        first = tl.load(starts + seq)
        length = tl.load(starts + seq + 1) - first
        past = tl.load(context_lens + seq) - length
        row = tl.load(block_rows + tl.program_id(0)) + tl.arange(0, ROWS)
        token = row // (H // K)
        known = token < length
        position = past + token
        last = past + min(tl.max(token, 0), length - 1)
        head_row = (first + token).to(tl.int64) * H + kv_head * (H // K) + row % (H // K)
        d = tl.arange(0, BLOCK_D)
        mask = (d < D)[:, None] & known[None, :]
        q = tl.load(query + head_row[None, :] * D + d[:, None], mask=mask, other=0.0)
        table = tables + seq.to(tl.int64) * TABLE_WIDTH
        if SIDE_BY_SIDE:
            span = tl.program_id(2)
            if span * SPAN <= last:
                stop = min((span + 1) * SPAN, last + 1)
                top, mass, total = _span(
                    q, keys, values, table, kv_head, position, span * SPAN, stop, scale,
                    K, D, P, TILE,
                )  # fmt: skip
                at = head_row * NUM_SPANS + span
                tl.store(span_tops + at * 2, top, mask=known)
                tl.store(span_tops + at * 2 + 1, mass, mask=known)
                tl.store(span_outs + at[None, :] * D + d[:, None], total, mask=mask)
        else:
            top = tl.full((ROWS,), NOTHING, tl.float32)
            mass = tl.zeros((ROWS,), tl.float32)
            total = tl.zeros((BLOCK_D, ROWS), tl.float32)
            for start in range(0, last + 1, SPAN):
                stop = min(start + SPAN, last + 1)
                span_top, span_mass, span_total = _span(
                    q, keys, values, table, kv_head, position, start, stop, scale, K, D, P, TILE
                )
                top, mass, total = _merge(top, mass, total, span_top, span_mass, span_total)
            result = total / tl.where(mass > 0, mass, 1.0)[None, :]
            tl.store(
                out + head_row[None, :] * D + d[:, None],
                result.to(out.dtype.element_ty),
                mask=mask,
            )


@triton.jit
def merge_kernel(
    span_tops,
    span_outs,
    positions,
    slots,
    out,
    H: tl.constexpr,
    D: tl.constexpr,
    SPAN: tl.constexpr,
    NUM_SPANS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Program (token, head): joins the spans that `attention_kernel` left side by side."""
    token = tl.program_id(0).to(tl.int64)
    row = token * H + tl.program_id(1)
    d = tl.arange(0, BLOCK_D)[:, None]
    if tl.load(slots + token) >= 0:
        one = tl.arange(0, 1)
        top = tl.full((1,), NOTHING, tl.float32)
        mass = tl.zeros((1,), tl.float32)
        total = tl.zeros((BLOCK_D, 1), tl.float32)
        for span in range(tl.load(positions + token) // SPAN + 1):
            at = row * NUM_SPANS + span + one
            span_top, span_mass = tl.load(span_tops + at * 2), tl.load(span_tops + at * 2 + 1)
            span_out = tl.load(span_outs + at[None, :] * D + d, mask=d < D, other=0.0)
            top, mass, total = _merge(top, mass, total, span_top, span_mass, span_out)
        result = total / mass[None, :]
        tl.store(out + row * D + d, result.to(out.dtype.element_ty), mask=d < D)
