"""From a schedule to flat arrays."""

import dataclasses
from typing import Any

import numpy as np
from test_block_manager import manager, sequence

from llamastream.engine.batch import BatchBuilder, BlockTables
from llamastream.engine.runner import ForwardBatch, SamplingBatch
from llamastream.engine.scheduler import Scheduled
from llamastream.sampling import SamplingParams


def test_chunks_and_decodes_share_a_batch() -> None:
    blocks = manager(num_blocks=16)
    decode, chunk, whole = sequence([1] * 6), sequence(list(range(10, 20))), sequence([30, 31])
    for seq in (decode, chunk, whole):
        blocks.allocate(seq)
    decode.num_computed_tokens, chunk.num_computed_tokens = 5, 3
    batch = BatchBuilder(4).build([Scheduled(decode, 1), Scheduled(chunk, 5), Scheduled(whole, 2)])
    assert batch.token_ids.tolist() == [1, 13, 14, 15, 16, 17, 30, 31]
    assert batch.positions.tolist() == [5, 3, 4, 5, 6, 7, 0, 1]
    assert batch.cu_seqlens_q.tolist() == [0, 1, 6, 8]
    assert batch.context_lens.tolist() == [6, 8, 2]
    assert batch.block_tables.tolist() == [[0, 1, -1], [2, 3, 4], [5, -1, -1]]
    assert batch.slot_mapping.tolist() == [5, 11, 12, 13, 14, 15, 20, 21]
    assert batch.logits_indices.tolist() == [0, 7]  # the chunk has more to come
    assert len(batch.sampling.temperature) == 2


def test_a_step_that_only_computes_samples_nothing() -> None:
    seq = sequence([1] * 9)
    manager().allocate(seq)
    batch = BatchBuilder(4).build([Scheduled(seq, 8)])
    assert batch.logits_indices.tolist() == [] and batch.sampling.history_offsets.tolist() == [0]


def test_tables_follow_growth_and_reallocation() -> None:
    tables = BlockTables()
    first, second = sequence([1]), sequence([2])
    seqs = [first, second]
    first.block_table, second.block_table = [3, 4, 5], [6]
    assert tables.update(seqs).tolist() == [[3, 4, 5], [6, -1, -1]]
    second.block_table.append(7)
    assert tables.update(list(seqs)).tolist() == [[3, 4, 5], [6, 7, -1]]
    first.block_table = [8, 9, 1]  # preempted and admitted again
    assert tables.update(list(seqs)).tolist() == [[8, 9, 1], [6, 7, -1]]
    first.block_table = [2]
    assert tables.update(list(seqs)).tolist() == [[2, -1, -1], [6, 7, -1]]
    second.block_table += [1, 2, 3]
    assert tables.update(list(seqs)).tolist() == [[2, -1, -1, -1, -1], [6, 7, 1, 2, 3]]
    assert tables.update([second]).tolist() == [[6, 7, 1, 2, 3]]
    assert tables.update([second]).dtype == np.int32


def test_a_steady_decode_equals_a_batch_built_anew() -> None:
    blocks = manager(num_blocks=32)
    penalised = SamplingParams(temperature=1.0, repetition_penalty=1.5, seed=3)
    seqs = [sequence([1] * 3, room=20), sequence([2] * 7, room=20), sequence([3, 4], room=20)]
    seqs[2].sampling = penalised
    for seq in seqs:
        blocks.allocate(seq)
    steady = BatchBuilder(4)
    steady.build([Scheduled(seq, seq.num_tokens) for seq in seqs])
    for token_id in range(10, 20):  # over the ends of blocks, and of the table's width
        for seq in seqs:
            seq.num_computed_tokens = seq.num_tokens
            seq.append(token_id)
            blocks.grow(seq)
        scheduled = [Scheduled(seq, 1) for seq in seqs]
        advanced, anew = steady.build(scheduled), BatchBuilder(4).build(scheduled)
        assert fields(advanced) == fields(anew)


def test_the_same_sequences_in_a_step_that_draws_nothing_are_assembled() -> None:
    seq = sequence([1, 2, 3])
    manager().allocate(seq)
    builder = BatchBuilder(4)
    for num_computed in range(3):  # a prompt in chunks of one token
        seq.num_computed_tokens = num_computed
        assert fields(builder.build([Scheduled(seq, 1)])) == fields(
            BatchBuilder(4).build([Scheduled(seq, 1)])
        )


def fields(batch: ForwardBatch | SamplingBatch) -> dict[str, Any]:
    return {
        name: fields(value) if isinstance(value, SamplingBatch) else np.asarray(value).tolist()
        for name, value in ((f.name, getattr(batch, f.name)) for f in dataclasses.fields(batch))
    }
