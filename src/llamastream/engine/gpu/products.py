"""Tile products as the matrix instructions give them, and the same under Triton's interpreter."""

import triton
import triton.language as tl

# NOTE: the interpreter keeps bfloat16 as bit patterns, which its products and its conversions from
# integers take for numbers. There, both happen in float32, which holds the same values; and a
# product is summed along k one by one, as NumPy's own depends on the shapes of both sides.
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def product(left, right, total):
    """total + left @ right, summed in float32. left: (m, k). right: (k, n)."""
    if INTERPRETED:
        terms = left.to(tl.float32)[:, :, None] * right.to(tl.float32)[None, :, :]
        result = total + tl.sum(terms, 1)
    else:
        result = tl.dot(left, right, total, input_precision="ieee")
    return result


@triton.jit
def widened(levels, like):
    """Small integers, exactly, in the precision of `like`."""
    if INTERPRETED:
        result = levels.to(tl.float32)
    else:
        result = levels.to(like.dtype)
    return result
