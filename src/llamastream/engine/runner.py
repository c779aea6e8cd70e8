"""The contract between the scheduler and what computes a step: CPU core, GPU, NumPy oracle.

A runner owns the weights and the KV cache's memory. It knows no requests: a step is flat arrays.
The invariant: what is computed for one token depends only on the ids and positions it attends to
and on its row's sampling parameters. Not on the rest of the batch, on how a prompt was cut into
chunks, or on the number of threads.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Int32 = NDArray[np.int32]
UInt8 = NDArray[np.uint8]
UInt32 = NDArray[np.uint32]
UInt64 = NDArray[np.uint64]
Float32 = NDArray[np.float32]
Progress = Callable[[int, int], None]  # tensors stored, tensors in all


@dataclass(frozen=True, slots=True)
class SamplingBatch:
    """Sampling parameters of the R rows that sample in this step, one array entry per row.

    `position`: index of the drawn token among the sequence's outputs, the counter of its random
    numbers. History (repetition, presence, frequency penalty) and logit bias are ragged: row r owns
    `history_ids[history_offsets[r]:history_offsets[r + 1]]`, of which the first
    `history_num_prompt[r]` are the prompt. Rows without penalties own nothing. `num_logprobs` is -1
    for none, else the alternatives reported. A row with a target of 0 or more draws nothing: its
    result is that token, with log-probabilities. Row r may draw only ids whose bits are set in
    `masks[mask_rows[r]]`, least significant first; any, where that is -1. Bits past V are ignored.
    """

    temperature: Float32  # (R,)
    top_p: Float32  # (R,)
    top_k: Int32  # (R,)
    min_p: Float32  # (R,)
    repetition_penalty: Float32  # (R,)
    presence_penalty: Float32  # (R,)
    frequency_penalty: Float32  # (R,)
    seed: UInt64  # (R,)
    position: Int32  # (R,)
    num_logprobs: Int32  # (R,)
    history_ids: Int32
    history_offsets: Int32  # (R + 1,)
    history_num_prompt: Int32  # (R,)
    bias_ids: Int32
    bias_values: Float32
    bias_offsets: Int32  # (R + 1,)
    targets: Int32  # (R,), -1 where a token is drawn
    masks: UInt32  # (M, ceil(V / 32)), or (0, 0)
    mask_rows: Int32  # (R,)
    most_logprobs: int = field(init=False)  # the largest num_logprobs, at least 0

    def __post_init__(self) -> None:
        most = max(int(self.num_logprobs.max(initial=0)), 0)
        object.__setattr__(self, "most_logprobs", most)


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """One step: T new tokens of S sequences, flattened. Sequence s owns tokens
    cu_seqlens_q[s]:cu_seqlens_q[s + 1].

    `context_lens` counts a sequence's tokens after this step; its last new token has position
    context_lens[s] - 1. `block_tables` rows are padded with -1. A token at position p lives in slot
    block_table[p // P] * P + p % P. `logits_indices` are the rows of the T tokens whose next token
    is sampled, in ascending order.

    A token id below 0, here and in the histories, is one that the host does not know yet: -1 - r
    stands for what row r of the step before drew. Only a runner that `looks_ahead` gets such ids.
    """

    token_ids: Int32  # (T,)
    positions: Int32  # (T,)
    slot_mapping: Int32  # (T,)
    cu_seqlens_q: Int32  # (S + 1,)
    context_lens: Int32  # (S,)
    block_tables: Int32  # (S, longest table)
    logits_indices: Int32  # (R,)
    sampling: SamplingBatch
    return_logits: bool = field(default=False)  # tests and quality measurements only


class StepResult(NamedTuple):
    """What one step drew. Arrays belong to the caller; nothing aliases the runner's buffers."""

    token_ids: Int32  # (R,)
    logprobs: Float32  # (R,) log-softmax of raw logits at the drawn token; NaN if none asked for
    top_ids: Int32  # (R, K), K the step's most_logprobs, padded with -1; likeliest first
    top_logprobs: Float32  # (R, K)
    logits: Float32 | None  # (R, V) raw, when asked for


class Runner(Protocol):
    """Computes steps, in the order in which they come. Called from one thread only.

    `looks_ahead`: a step may be begun before the result of the last one was taken. Runners that
    compute at once inherit False, and `start`; only those take rows with targets.
    """

    looks_ahead: bool = False
    num_blocks: int
    block_size: int
    max_model_len: int
    vocab_size: int
    block_bytes: int = 0  # of one that `block` gives; 0: nothing is to be had of the cache

    def block(self, index: int) -> UInt8:
        """The memory (block_bytes,) of a block, for one that no step uses meanwhile to write. What
        is in a full one depends on its tokens, and those before them, alone."""
        return np.empty(self.block_bytes, np.uint8)

    def run(self, batch: ForwardBatch) -> StepResult:
        """Write this step's keys and values into the cache, in place, and draw one token per row.

        A row whose temperature is 0 takes the largest logit after penalties, bias and mask, the
        lowest id among equals.
        """
        ...

    def start(self, batch: ForwardBatch) -> Callable[[], StepResult]:
        """Begin what `run` does. What is returned waits for the result and is called once at most.

        `batch` is read before this returns. Either call may raise for any step that was begun.
        """
        result = self.run(batch)
        return lambda: result

    def close(self) -> None:
        """Free weights, cache and threads. Nothing may be called afterwards."""
        ...
