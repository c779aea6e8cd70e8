"""Token ids in, token ids out: scheduler, paged KV cache and runners. Knows no text and no HTTP.

Letters used in shapes: T tokens in the step, S sequences in the step, R rows that sample, L layers,
H query heads, K kv heads, D head dim, V vocabulary, N blocks, P block size.
"""
