"""What one step tells the device, in one copy from pinned memory.

The arrays keep their place from step to step, so that a recorded graph finds them again. The block
tables stand last: only the rows in use are copied. On the host there are two sets, by turns: the
device may not have read the last step's yet when the next one is written.
"""

from dataclasses import dataclass

import numpy as np
import torch

from llamastream.engine.runner import ForwardBatch, Int32

ALIGNMENT = 16  # elements: kernels may then assume aligned pointers, whatever the limits are
FLOAT_FIELDS = (
    "temperature",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)
INT_FIELDS = ("top_k", "position", "num_logprobs")


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest step, and what never changes from step to step."""

    max_tokens: int
    max_seqs: int
    max_rows: int  # that sample: more than sequences where drafts are checked
    max_model_len: int
    block_size: int
    query_groups: int  # query heads per kv head

    @property
    def table_width(self) -> int:
        """Blocks of the longest sequence."""
        return -(-self.max_model_len // self.block_size)


@dataclass(frozen=True, slots=True)
class Bucket:
    """A step's size, rounded up. `rows`: of one attention program; `num_blocks`: programs."""

    num_tokens: int
    num_blocks: int
    rows: int
    is_decode: bool  # one token of each sequence

    @classmethod
    def of(cls, num_tokens: int, limits: Limits, *, is_decode: bool) -> "Bucket":
        """For steps of up to `num_tokens`, which is a size of `bucket_sizes`."""
        rows = DECODE_ROWS if is_decode else PREFILL_ROWS
        if is_decode:
            rows = max(rows, 1 << (limits.query_groups - 1).bit_length())
            return cls(num_tokens, num_tokens, rows, True)
        num_blocks = -(-num_tokens * limits.query_groups // rows)
        return cls(num_tokens, num_blocks + min(num_tokens, limits.max_seqs), rows, False)


DECODE_ROWS = 16  # the narrowest right operand of a matrix instruction
PREFILL_ROWS = 32


def bucket_sizes(largest: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, 16 ...: at most half of a step is padding; `largest` is the last."""
    sizes = {1, largest}
    power = 2
    while power < largest:
        sizes |= {power, min(power * 3 // 2, largest)}
        power *= 2
    return sorted(sizes)


class StepInput:
    """Host and device side of a step's arrays. `device_arrays`: views by field name."""

    def __init__(self, limits: Limits, device: torch.device) -> None:
        self.limits = limits
        blocks = Bucket.of(limits.max_tokens, limits, is_decode=False).num_blocks
        tokens, seqs = limits.max_tokens, limits.max_seqs
        sizes = dict.fromkeys(("token_ids", "positions", "slots"), tokens)
        sizes |= dict.fromkeys(("block_seqs", "block_rows"), max(blocks, seqs))
        sizes |= {"starts": seqs + 1, "context_lens": seqs}
        sizes |= {"rows": limits.max_rows, "seeds": 2 * limits.max_rows}
        sizes |= dict.fromkeys((*FLOAT_FIELDS, *INT_FIELDS), limits.max_rows)
        sizes["tables"] = seqs * limits.table_width
        places, end = {}, 0
        for name, size in sizes.items():
            places[name] = slice(end, end + size)
            end += -(-size // ALIGNMENT) * ALIGNMENT
        self._tables_start = places["tables"].start
        self._hosts = two_host_tensors(end, device)
        self._device = torch.zeros(end, dtype=torch.int32, device=device)
        self.device_arrays = {name: self._device[place] for name, place in places.items()}
        for name in FLOAT_FIELDS:
            self.device_arrays[name] = self.device_arrays[name].view(torch.float32)
        self._places = places

    def send(self, batch: ForwardBatch, bucket: Bucket) -> None:
        """Queue the copy of a step, padded to its bucket, on the current stream.

        The step before the last one must have ended: its copy has read the pinned memory.
        """
        self._hosts = self._hosts[::-1]
        host = self._hosts[0].numpy()
        arrays = {name: host[place] for name, place in self._places.items()}
        num_seqs = len(batch.context_lens)
        _pad(arrays["token_ids"], batch.token_ids, bucket.num_tokens, 0)
        _pad(arrays["positions"], batch.positions, bucket.num_tokens, 0)
        _pad(arrays["slots"], batch.slot_mapping, bucket.num_tokens, -1)
        seqs, rows = attention_blocks(batch.cu_seqlens_q, bucket.rows, self.limits.query_groups)
        _pad(arrays["block_seqs"], seqs, bucket.num_blocks, -1)
        _pad(arrays["block_rows"], rows, bucket.num_blocks, 0)
        arrays["starts"][: num_seqs + 1] = batch.cu_seqlens_q
        arrays["context_lens"][:num_seqs] = batch.context_lens
        width = batch.block_tables.shape[1]
        tables = arrays["tables"].reshape(-1, self.limits.table_width)
        tables[:num_seqs, :width] = batch.block_tables
        _write_sampling(arrays, batch)
        used = self._tables_start + num_seqs * self.limits.table_width
        self._device[:used].copy_(self._hosts[0][:used], non_blocking=True)


def two_host_tensors(size: int, device: torch.device) -> list[torch.Tensor]:
    """int32, that a copy from or to the device need not wait for."""
    pinned = device.type == "cuda"
    return [torch.zeros(size, dtype=torch.int32, pin_memory=pinned) for _ in range(2)]


def _write_sampling(arrays: dict[str, Int32], batch: ForwardBatch) -> None:
    num_rows = len(batch.logits_indices)
    arrays["rows"][:num_rows] = batch.logits_indices
    for name in FLOAT_FIELDS:
        arrays[name][:num_rows] = getattr(batch.sampling, name).view(np.int32)
    for name in INT_FIELDS:
        arrays[name][:num_rows] = getattr(batch.sampling, name)
    arrays["seeds"][: 2 * num_rows] = batch.sampling.seed.astype("<u8").view(np.int32)


def _pad(array: Int32, values: Int32, size: int, padding: int) -> None:
    array[: len(values)] = values
    array[len(values) : size] = padding


def attention_blocks(cu_seqlens_q: Int32, rows: int, groups: int) -> tuple[Int32, Int32]:
    """Sequence and first row of each attention program; a sequence has (tokens * groups) rows."""
    counts = -(-np.diff(cu_seqlens_q) * groups // rows)
    seqs = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    return seqs, ((np.arange(len(seqs)) - first) * rows).astype(np.int32)
