"""Kernels that draw tokens as docs/sampling.md specifies, one program per row.

Nothing is sorted: the candidates are all ids above a threshold, and the first few of those on it.
Thresholds are found by bisection over the bits of a probability, which order as the numbers do.
"""

import triton
import triton.language as tl

from llamastream.engine.gpu.rows import known_id

LARGEST = tl.constexpr(3.4028234e38)  # float32
INFINITY_BITS = tl.constexpr(0x7F800000)
SEEN = tl.constexpr(1 << 30)  # this id occurs in the prompt; below, how often in the output


@triton.jit
def count_kernel(counts, ids, drawn, offsets, num_prompt, V: tl.constexpr, BLOCK: tl.constexpr):
    """counts: (R, V) int32, all zero before. Program (row, chunk of BLOCK of its history)."""
    row = tl.program_id(0)
    start, stop = tl.load(offsets + row), tl.load(offsets + row + 1)
    at = start + tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    token = known_id(tl.load(ids + at, mask=at < stop, other=0), drawn, at < stop)
    of_prompt = at < start + tl.load(num_prompt + row)
    where = counts + row.to(tl.int64) * V + token
    tl.atomic_or(where, tl.full((BLOCK,), SEEN, tl.int32), mask=(at < stop) & of_prompt)
    tl.atomic_add(where, tl.full((BLOCK,), 1, tl.int32), mask=(at < stop) & ~of_prompt)


@triton.jit
def penalty_kernel(
    logits,
    counts,
    repetition,
    presence,
    frequency,
    out,
    V: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """out: (R, V), the logits after the three penalties. Program (row, tile)."""
    row = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = token < V
    x = tl.load(logits + row * V + token, mask=inside, other=0.0)
    count = tl.load(counts + row * V + token, mask=inside, other=0)
    penalty = tl.full((BLOCK,), 1.0, tl.float32) * tl.load(repetition + row)
    repeated = tl.where(x > 0, tl.div_rn(x, penalty), x * penalty)
    x = tl.where(count != 0, repeated, x)
    times = count & (SEEN - 1)
    fallen = x - tl.load(frequency + row) * times.to(tl.float32) - tl.load(presence + row)
    x = tl.where(times > 0, fallen, x)
    tl.store(out + row * V + token, x, mask=inside)


@triton.jit
def bias_kernel(logits, ids, values, offsets, V: tl.constexpr):
    """Add each row's biases to `logits` (R, V), in place, one after another."""
    row = tl.program_id(0)
    for at in range(tl.load(offsets + row), tl.load(offsets + row + 1)):
        where = logits + row.to(tl.int64) * V + tl.load(ids + at)
        tl.store(where, tl.load(where) + tl.load(values + at))


@triton.jit
def mask_kernel(
    logits, masks, mask_rows, out, V: tl.constexpr, WORDS: tl.constexpr, BLOCK: tl.constexpr
):
    """out: (R, V), may be `logits`: minus infinity where a row has a mask whose bit is 0. masks:
    (M, WORDS) int32. Program (row, tile)."""
    row = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = token < V
    x = tl.load(logits + row * V + token, mask=inside, other=0.0)
    mask_row = tl.load(mask_rows + row).to(tl.int64)
    is_masked = mask_row >= 0
    word = tl.load(masks + mask_row * WORDS + token // 32, mask=inside & is_masked, other=-1)
    x = tl.where((word >> (token % 32)) & 1 != 0, x, float("-inf"))
    tl.store(out + row * V + token, x, mask=inside)


@triton.jit
def _scaled(logits, token, temperature, V: tl.constexpr):
    """Logits over the temperature, kept finite; the lowest number beyond the vocabulary."""
    x = tl.load(logits + token, mask=token < V, other=0.0)
    x = tl.div_rn(x, tl.full(x.shape, 1.0, tl.float32) * temperature)
    return tl.where(token < V, tl.minimum(tl.maximum(x, -LARGEST), LARGEST), -LARGEST)


@triton.jit
def _largest(logits, V: tl.constexpr, BLOCK: tl.constexpr):
    """The largest number of a row and its lowest id."""
    best = tl.full((BLOCK,), float("-inf"), tl.float32)
    best_id = tl.zeros((BLOCK,), tl.int32)
    for tile in range(0, V, BLOCK):
        token = tile + tl.arange(0, BLOCK)
        x = tl.load(logits + token, mask=token < V, other=float("-inf"))
        best_id = tl.where(x > best, token, best_id)
        best = tl.maximum(best, x)
    top = tl.max(best, 0)
    return top, tl.min(tl.where(best == top, best_id, V), 0)


@triton.jit
def _is_finite(logits, V: tl.constexpr, BLOCK: tl.constexpr):
    bad = tl.zeros((BLOCK,), tl.int32)
    for tile in range(0, V, BLOCK):
        token = tile + tl.arange(0, BLOCK)
        x = tl.load(logits + token, mask=token < V, other=0.0)
        bad += tl.where(tl.abs(x) <= LARGEST, 0, 1)  # NaN compares false
    return tl.sum(bad, 0) == 0


@triton.jit
def _write_probs(logits, probs, temperature, V: tl.constexpr, BLOCK: tl.constexpr):
    """probs: (V,), softmax of the logits over the temperature. Returns the largest."""
    top, _ = _largest(logits, V, BLOCK)
    none = tl.zeros((1,), tl.int32)
    scaled = tl.div_rn(top + none.to(tl.float32), temperature + none.to(tl.float32))
    scaled_top = tl.max(tl.minimum(tl.maximum(scaled, -LARGEST), LARGEST), 0).to(tl.float64)
    mass = tl.zeros((BLOCK,), tl.float64)
    for tile in range(0, V, BLOCK):
        token = tile + tl.arange(0, BLOCK)
        x = _scaled(logits, token, temperature, V).to(tl.float64)
        mass += tl.where(token < V, tl.exp(x - scaled_top), 0.0)
    log_mass = tl.log(tl.sum(mass, 0))
    largest = tl.zeros((BLOCK,), tl.float32)
    for tile in range(0, V, BLOCK):
        token = tile + tl.arange(0, BLOCK)
        x = _scaled(logits, token, temperature, V).to(tl.float64)
        p = tl.exp((x - scaled_top - log_mass).to(tl.float32))
        tl.store(probs + token, p, mask=token < V)
        largest = tl.maximum(largest, tl.where(token < V, p, 0.0))
    tl.debug_barrier()  # the probabilities are read by other threads than wrote them
    return tl.max(largest, 0)


@triton.jit
def _bits(probs, token, V: tl.constexpr):
    """Probabilities as integers of the same order; -1 beyond the vocabulary."""
    p = tl.load(probs + token, mask=token < V, other=0.0)
    return tl.where(token < V, p.to(tl.int32, bitcast=True), -1)


@triton.jit
def _count_from(probs, bits, V: tl.constexpr, BLOCK: tl.constexpr):
    """How many probabilities are at least `bits`."""
    count = tl.zeros((BLOCK,), tl.int32)
    for tile in range(0, V, BLOCK):
        count += (_bits(probs, tile + tl.arange(0, BLOCK), V) >= bits).to(tl.int32)
    return tl.sum(count, 0)


@triton.jit
def _mass_from(probs, bits, V: tl.constexpr, BLOCK: tl.constexpr):
    """The sum of the probabilities that are at least `bits`."""
    mass = tl.zeros((BLOCK,), tl.float64)
    for tile in range(0, V, BLOCK):
        found = _bits(probs, tile + tl.arange(0, BLOCK), V)
        p = found.to(tl.float32, bitcast=True).to(tl.float64)
        mass += tl.where(found >= bits, p, 0.0)
    return tl.sum(mass, 0)


@triton.jit
def _candidates(probs, largest, top_k, top_p, V: tl.constexpr, BLOCK: tl.constexpr):
    """(bits, n): candidates lie above `bits`, or are among the first n ids that equal it."""
    bits, ties = largest.to(tl.int32, bitcast=True) * 0, top_k * 0 + V
    top_bits = largest.to(tl.int32, bitcast=True)
    if (top_k > 0) & (top_k < V):
        low, high = top_bits * 0, top_bits  # at least k from `low` on, always
        while low < high:
            middle = low + (high - low + 1) // 2
            enough = _count_from(probs, middle, V, BLOCK) >= top_k
            low, high = tl.where(enough, middle, low), tl.where(enough, high, middle - 1)
        bits = low
        ties = top_k - _count_from(probs, bits + 1, V, BLOCK)
    else:
        ties = _count_from(probs, bits, V, BLOCK) - _count_from(probs, bits + 1, V, BLOCK)
    if top_p < 1:
        edge = bits.to(tl.float32, bitcast=True).to(tl.float64)
        above = _mass_from(probs, bits + 1, V, BLOCK)
        goal = top_p.to(tl.float64) * (above + edge * ties.to(tl.float64))
        low, high = bits, top_bits
        while low < high:
            middle = low + (high - low + 1) // 2
            enough = _mass_from(probs, middle, V, BLOCK) >= goal
            low, high = tl.where(enough, middle, low), tl.where(enough, high, middle - 1)
        if low > bits:
            above = _mass_from(probs, low + 1, V, BLOCK)
            ties = _count_from(probs, low, V, BLOCK) - _count_from(probs, low + 1, V, BLOCK)
        bits = low
        edge = bits.to(tl.float32, bitcast=True).to(tl.float64)
        if edge > 0:
            needed = tl.ceil((goal - above) / edge)
            ties = tl.minimum(tl.maximum(needed, 1.0), ties.to(tl.float64)).to(tl.int32)
    return bits, ties


@triton.jit
def _kept(probs, tile, bits, ties, least, ties_before, V: tl.constexpr, BLOCK: tl.constexpr):
    """Probabilities of a tile's candidates, 0 for others, and how many equalled `bits`."""
    found = _bits(probs, tile + tl.arange(0, BLOCK), V)
    p = found.to(tl.float32, bitcast=True)
    tied = (found == bits).to(tl.int32)
    rank = ties_before + tl.cumsum(tied, 0) - tied
    keep = ((found > bits) | ((found == bits) & (rank < ties))) & (p >= least) & (found >= 0)
    return tl.where(keep, p, 0.0).to(tl.float64), tl.sum(tied, 0)


@triton.jit
def _draw(probs, bits, ties, least, uniform, V: tl.constexpr, BLOCK: tl.constexpr):
    """The first candidate, by rising id, whose running sum exceeds `uniform` times the total."""
    total = tl.sum(tl.zeros((1,), tl.float64), 0)
    num_tied = tl.sum(tl.zeros((1,), tl.int32), 0)
    for tile in range(0, V, BLOCK):
        p, tied = _kept(probs, tile, bits, ties, least, num_tied, V, BLOCK)
        total += tl.sum(p, 0)
        num_tied += tied
    goal = uniform * total
    before, num_tied = total * 0, num_tied * 0
    drawn, last = num_tied + V, num_tied
    for tile in range(0, V, BLOCK):
        token = tile + tl.arange(0, BLOCK)
        p, tied = _kept(probs, tile, bits, ties, least, num_tied, V, BLOCK)
        reached = (p > 0) & (before + tl.cumsum(p, 0) > goal)
        drawn = tl.minimum(drawn, tl.min(tl.where(reached, token, V), 0))
        last = tl.maximum(last, tl.max(tl.where(p > 0, token, 0), 0))
        before += tl.sum(p, 0)
        num_tied += tied
    return tl.minimum(drawn, last)


@triton.jit
def _uniform(seed, position):
    """In [0, 1), from the two halves of a seed. Source: Philox4x32-10, Salmon et al., SC 2011."""
    none = tl.zeros((1,), tl.uint32)
    low = none + tl.load(seed).to(tl.uint32, bitcast=True)
    high = none + tl.load(seed + 1).to(tl.uint32, bitcast=True)
    counter = none + position.to(tl.uint32, bitcast=True)
    word = tl.philox_impl(counter, none, none, none, low, high)[0]
    return tl.max((word >> 8).to(tl.int32), 0).to(tl.float64) * (1.0 / 16777216.0)


@triton.jit
def draw_kernel(
    raw_logits,
    logits,
    probs,
    temperatures,
    top_ps,
    top_ks,
    min_ps,
    seeds,
    positions,
    token_ids,
    V: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """token_ids: (R,), -1 where a raw logit is not finite. probs: (R, V), written and read here.

    seeds: (R, 2), low and high half.
    """
    row = tl.program_id(0).to(tl.int64)
    temperature = tl.load(temperatures + row)
    logits += row * V
    probs += row * V
    if temperature > 0:
        largest = _write_probs(logits, probs, temperature, V, BLOCK)
        bits, ties = _candidates(
            probs, largest, tl.load(top_ks + row), tl.load(top_ps + row), V, BLOCK
        )
        uniform = _uniform(seeds + row * 2, tl.load(positions + row))
        least = tl.load(min_ps + row) * largest
        drawn = _draw(probs, bits, ties, least, uniform, V, BLOCK)
    else:
        _, drawn = _largest(logits, V, BLOCK)
    finite = _is_finite(raw_logits + row * V, V, BLOCK)
    tl.store(token_ids + row, tl.where(finite, drawn, -1))


@triton.jit
def logprob_kernel(
    logits,
    token_ids,
    num_logprobs,
    logprobs,
    top_ids,
    top_logprobs,
    V: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Log-softmax of raw logits: logprobs (R,) of the drawn ids, top_* (R, WIDTH) the likeliest.

    Written only where a row asks for them: rows with num_logprobs -1 keep what was there.
    """
    row = tl.program_id(0).to(tl.int64)
    wanted = tl.load(num_logprobs + row)
    logits += row * V
    if wanted >= 0:
        top, _ = _largest(logits, V, BLOCK)
        top = top.to(tl.float64)
        mass = tl.zeros((BLOCK,), tl.float64)
        for tile in range(0, V, BLOCK):
            token = tile + tl.arange(0, BLOCK)
            x = tl.load(logits + token, mask=token < V, other=0.0).to(tl.float64)
            mass += tl.where(token < V, tl.exp(x - top), 0.0)
        log_mass = tl.log(tl.sum(mass, 0))
        drawn = tl.maximum(tl.load(token_ids + row), 0)
        of_drawn = tl.load(logits + drawn).to(tl.float64) - top - log_mass
        tl.store(logprobs + row, of_drawn.to(tl.float32))
        last, last_id = (log_mass * 0).to(tl.float32) + 1.0, drawn * 0 - 1
        for place in range(tl.minimum(wanted, WIDTH)):
            best = tl.full((BLOCK,), float("-inf"), tl.float32)
            best_id = tl.full((BLOCK,), V, tl.int32)
            for tile in range(0, V, BLOCK):
                token = tile + tl.arange(0, BLOCK)
                x = tl.load(logits + token, mask=token < V, other=0.0).to(tl.float64)
                y = (x - top - log_mass).to(tl.float32)
                later = (y < last) | ((y == last) & (token > last_id))
                better = later & (token < V) & ((y > best) | (best_id == V))
                best_id = tl.where(better, token, best_id)
                best = tl.where(better, y, best)
            last = tl.max(best, 0)
            last_id = tl.min(tl.where(best == last, best_id, V), 0)
            if last_id < V:
                tl.store(top_ids + row * WIDTH + place, last_id)
                tl.store(top_logprobs + row * WIDTH + place, last)
