"""Builds steps for a runner by hand: chunks of sequences, with their blocks, as flat arrays."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from llamastream.config import LlamaConfig
from llamastream.engine.runner import Float32, ForwardBatch, Runner, SamplingBatch

FLOAT_FIELDS = {
    "temperature": 0.0,
    "top_p": 1.0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
INT_FIELDS = {
    "top_k": 0,
    "position": 0,
    "num_logprobs": -1,
    "history_num_prompt": 0,
    "targets": -1,
}


@dataclass(frozen=True)
class Chunk:
    """New tokens of one sequence. `start`: its tokens already in the cache."""

    token_ids: Sequence[int]
    start: int
    block_table: Sequence[int]


def int32(values: ArrayLike) -> np.ndarray:
    return np.ascontiguousarray(values, np.int32)


def sampling_batch(num_rows: int, **changes: object) -> SamplingBatch:
    """Greedy rows, but for `changes`: one value for all rows, or an array of the field's own."""
    values: dict[str, object] = {
        **{name: np.full(num_rows, value, np.float32) for name, value in FLOAT_FIELDS.items()},
        **{name: np.full(num_rows, value, np.int32) for name, value in INT_FIELDS.items()},
        "seed": np.zeros(num_rows, np.uint64),
        "history_ids": int32([]),
        "history_offsets": np.zeros(num_rows + 1, np.int32),
        "bias_ids": int32([]),
        "bias_values": np.zeros(0, np.float32),
        "bias_offsets": np.zeros(num_rows + 1, np.int32),
        "masks": np.zeros((0, 0), np.uint32),
        "mask_rows": np.full(num_rows, -1, np.int32),
    }
    for name, value in changes.items():
        default = values[name]
        assert isinstance(default, np.ndarray)
        array = np.asarray(value, default.dtype)
        values[name] = array if array.ndim else np.full(num_rows, array)
    assert values.keys() == {field.name for field in fields(SamplingBatch) if field.init}
    return SamplingBatch(**values)  # type: ignore[arg-type]


def make_batch(
    chunks: Sequence[Chunk],
    block_size: int,
    *,
    rows: Literal["last", "all"] = "last",
    sampling: SamplingBatch | None = None,
) -> ForwardBatch:
    """One step that returns logits of each chunk's last token, or of all tokens."""
    cu_seqlens_q = int32(np.cumsum([0, *(len(chunk.token_ids) for chunk in chunks)]))
    width = max(len(chunk.block_table) for chunk in chunks)
    tables = np.full((len(chunks), width), -1, np.int32)
    positions, slots = [], []
    for row, chunk in enumerate(chunks):
        table = int32(chunk.block_table)
        tables[row, : len(table)] = table
        position = chunk.start + np.arange(len(chunk.token_ids))
        positions.append(position)
        slots.append(table[position // block_size] * block_size + position % block_size)
    logits = int32(cu_seqlens_q[1:] - 1 if rows == "last" else np.arange(cu_seqlens_q[-1]))
    return ForwardBatch(
        token_ids=int32([token for chunk in chunks for token in chunk.token_ids]),
        positions=int32(np.concatenate(positions)),
        slot_mapping=int32(np.concatenate(slots)),
        cu_seqlens_q=cu_seqlens_q,
        context_lens=int32([chunk.start + len(chunk.token_ids) for chunk in chunks]),
        block_tables=tables,
        logits_indices=logits,
        sampling=sampling or sampling_batch(len(logits)),
        return_logits=True,
    )


def all_logits(runner: Runner, token_ids: Sequence[int], *, chunk: int = 10**9) -> Float32:
    """Logits after every token of one sequence (len(token_ids), V), computed in chunks."""
    blocks = range(-(-len(token_ids) // runner.block_size))
    rows = []
    for start in range(0, len(token_ids), chunk):
        part = Chunk(token_ids[start : start + chunk], start, blocks)
        result = runner.run(make_batch([part], runner.block_size, rows="all"))
        assert result.logits is not None
        rows.append(result.logits)
    return np.concatenate(rows)


def greedy_ids(runner: Runner, prompt_ids: Sequence[int], count: int) -> list[int]:
    """`count` tokens decoded one by one after the prompt, alone in the cache."""
    blocks = range(-(-(len(prompt_ids) + count) // runner.block_size))
    chunk, drawn = Chunk(prompt_ids, 0, blocks), list[int]()
    while len(drawn) < count:
        batch = replace(make_batch([chunk], runner.block_size), return_logits=False)
        drawn.append(int(runner.run(batch).token_ids[0]))
        chunk = Chunk(drawn[-1:], chunk.start + len(chunk.token_ids), blocks)
    return drawn


def random_ids(config: LlamaConfig, count: int, seed: int) -> list[int]:
    ids: list[int] = np.random.default_rng(seed).integers(0, config.vocab_size, count).tolist()
    return ids
