"""A Scheduler in tests, and steps that draw without a runner."""

from zlib import crc32

import numpy as np

from llamastream.config import EngineConfig
from llamastream.engine.block_manager import BlockManager
from llamastream.engine.scheduler import Scheduler
from llamastream.engine.sequence import Sequence
from llamastream.sampling import SamplingParams

BLOCK_SIZE = 4


def sequence(name: str, num_prompt: int, max_tokens: int = 20, *, scope: str = "") -> Sequence:
    # Prompts differ from the first token on, so no prefix is ever shared here.
    token_ids = np.full(num_prompt + max_tokens, crc32(name.encode()) % 2**31, np.int32)
    return Sequence(name, token_ids, num_prompt, num_prompt, SamplingParams(), seed=0, scope=scope)


def scheduler(
    *,
    num_blocks: int = 100,
    max_num_seqs: int = 8,
    max_num_batched_tokens: int = 16,
    max_prefill_beside_decode: int = 16,
) -> Scheduler:
    config = EngineConfig(
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_prefill_beside_decode=max_prefill_beside_decode,
    )
    blocks = BlockManager(num_blocks, BLOCK_SIZE, enable_prefix_caching=True)
    return Scheduler(blocks, config)


def step(scheduler: Scheduler) -> dict[str, int]:
    """One step with token 0 drawn by all that sample; tokens given to each, in order."""
    scheduled = scheduler.schedule()
    scheduler.check_integrity()
    for seq, num_tokens in scheduled:
        seq.num_computed_tokens += num_tokens
        if seq.num_computed_tokens == seq.num_tokens:
            seq.append(0)
    return {seq.request_id: num_tokens for seq, num_tokens in scheduled}
