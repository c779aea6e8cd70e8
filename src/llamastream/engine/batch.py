"""Turns a schedule into the flat arrays a runner computes.

Knows no requests and no owners of blocks. The invariant: what a row is given depends on its own
sequence only, never on how it was scheduled. While the same sequences decode, the last step's
arrays are advanced in place: between two steps the processor's caches hold weights, and each array
operation costs ten times what it costs in a loop.
"""

from collections.abc import Iterable
from collections.abc import Sequence as AbstractSequence
from dataclasses import replace
from operator import add, is_
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llamastream.engine.runner import ForwardBatch, Int32, SamplingBatch, UInt32
from llamastream.engine.scheduler import Scheduled
from llamastream.engine.sequence import Guide, Sequence
from llamastream.sampling import SamplingParams


class BatchBuilder:
    """Builds one ForwardBatch per step. Its arrays are valid until the next `build`."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._tables = BlockTables()
        self._sampling = SamplingRows()
        # Whose batch can be advanced: one token each, and all of them drawn.
        self._decoding: list[Sequence] = []
        self._batch: ForwardBatch | None = None

    def build(self, scheduled: AbstractSequence[Scheduled]) -> ForwardBatch:
        seqs = [seq for seq, _ in scheduled]
        is_decode = sum([num_tokens for _, num_tokens in scheduled]) == len(seqs)
        if is_decode and self._batch is not None and seqs == self._decoding:
            self._batch = self._advance(self._batch, seqs)
            return self._batch
        batch = self._assemble(scheduled, seqs)
        is_alike = is_decode and len(batch.logits_indices) == len(seqs)
        self._decoding = seqs if is_alike and all(seq.is_scored for seq in seqs) else []
        self._batch = batch
        return batch

    def _advance(self, batch: ForwardBatch, seqs: list[Sequence]) -> ForwardBatch:
        """The step after `batch`, in its arrays: each of `seqs` has got one token since."""
        size = self._block_size
        last = [seq.num_tokens - 1 for seq in seqs]
        batch.token_ids[:] = [seq.token_ids.item(p) for seq, p in zip(seqs, last, strict=True)]
        batch.positions[:] = last
        batch.slot_mapping[:] = [
            seq.block_table[p // size] * size + p % size for seq, p in zip(seqs, last, strict=True)
        ]
        np.add(batch.positions, 1, out=batch.context_lens)
        block_tables, sampling = self._tables.update(seqs), self._sampling.advance(seqs)
        if block_tables is batch.block_tables and sampling is batch.sampling:
            return batch
        return replace(batch, block_tables=block_tables, sampling=sampling)

    def _assemble(
        self, scheduled: AbstractSequence[Scheduled], seqs: list[Sequence]
    ) -> ForwardBatch:
        counts = np.array([num_tokens for _, num_tokens in scheduled], np.int32)  # (S,)
        starts = np.array([seq.num_computed_tokens for seq in seqs], np.int32)  # (S,)
        totals = np.array([seq.num_tokens for seq in seqs], np.int32)  # (S,)
        cu_seqlens_q = np.zeros(len(seqs) + 1, np.int32)
        np.cumsum(counts, out=cu_seqlens_q[1:])
        context_lens = starts + counts
        owners = np.repeat(np.arange(len(seqs)), counts)  # (T,) the row of each token's sequence
        positions = np.arange(len(owners), dtype=np.int32)
        positions += (starts - cu_seqlens_q[:-1])[owners]
        block_tables = self._tables.update(seqs)
        blocks, offsets = np.divmod(positions, np.int32(self._block_size))
        if all(seq.is_scored for seq in seqs):
            draws = _draws(seqs, context_lens - totals, cu_seqlens_q[1:])
        else:
            draws = _draws_and_scores(scheduled, cu_seqlens_q)
        return ForwardBatch(
            token_ids=_new_token_ids(scheduled),
            positions=positions,
            slot_mapping=block_tables[owners, blocks] * np.int32(self._block_size) + offsets,
            cu_seqlens_q=cu_seqlens_q,
            context_lens=context_lens,
            block_tables=block_tables,
            logits_indices=draws.rows,
            sampling=self._sampling.update(draws),
        )


class BlockTables:
    """The block tables of the last step's sequences, patched rather than rebuilt."""

    def __init__(self) -> None:
        self._seqs: list[Sequence] = []
        self._known: list[list[int]] = []  # each row's block_table as it was copied
        self._lens: list[int] = []  # and its length then
        self._array: Int32 = np.empty((0, 0), np.int32)

    def update(self, seqs: list[Sequence]) -> Int32:
        """(S, longest table) int32, padded with -1."""
        tables = [seq.block_table for seq in seqs]
        lens = list(map(len, tables))
        if seqs != self._seqs or max(lens) > self._array.shape[1]:
            self._array = np.full((len(seqs), max(lens)), -1, np.int32)
            self._seqs, self._known, self._lens = seqs, [[] for _ in seqs], [0] * len(seqs)
        elif lens == self._lens and all(map(is_, tables, self._known)):
            return self._array
        for row, seq in enumerate(seqs):
            # A freed table is replaced by a new list, so identity and length show every change.
            if seq.block_table is not self._known[row] or lens[row] != self._lens[row]:
                self._array[row, : lens[row]] = seq.block_table
                self._array[row, lens[row] :] = -1
                self._known[row] = seq.block_table
        self._lens = lens
        return self._array


class SamplingRows:
    """Sampling parameters of the last step's rows; only positions and histories change."""

    def __init__(self) -> None:
        self._seqs: list[Sequence] | None = None
        self._batch: SamplingBatch = _sampling_batch([], [])
        self._has_history = self._has_masks = False

    def update(self, draws: "Draws") -> SamplingBatch:
        """The rows of a step."""
        if draws.targets is not None:
            return self._with_targets(draws, draws.targets)
        if draws.seqs != self._seqs:
            self._seqs = draws.seqs
            self._batch = _sampling_batch(draws.seqs, [seq.sampling for seq in draws.seqs])
            self._has_history = any(seq.sampling.has_penalties for seq in draws.seqs)
            self._has_masks = any(seq.guide is not None for seq in draws.seqs)
        return self.advance(draws.seqs, draws.ahead)

    def advance(self, seqs: list[Sequence], ahead: list[int] | None = None) -> SamplingBatch:
        """The rows of the last `update`'s sequences, with their present positions and histories."""
        num_known = [seq.num_tokens for seq in seqs]
        if ahead is not None:
            num_known = list(map(add, num_known, ahead))
        self._batch.position[:] = [
            count - seq.num_prompt_tokens for count, seq in zip(num_known, seqs, strict=True)
        ]
        if not self._has_history and not self._has_masks:
            return self._batch
        batch = self._batch
        if self._has_masks:
            batch = _masked(batch, [seq.guide for seq in seqs], ahead)
        if not self._has_history:
            return batch
        histories = [
            seq.token_ids[: count if seq.sampling.has_penalties else 0]
            for seq, count in zip(seqs, num_known, strict=True)
        ]
        return replace(
            batch,
            history_ids=np.concatenate(histories),
            history_offsets=_offsets(map(len, histories)),
        )

    def _with_targets(self, draws: "Draws", targets: list[int]) -> SamplingBatch:
        """Where the prompt's own tokens are asked for: such rows have neither history nor biases.

        Not kept, since the next step's rows are others.
        """
        self._seqs, seqs = None, draws.seqs
        params = [
            seq.sampling if target < 0 else SamplingParams(logprobs=seq.prompt_logprobs)
            for seq, target in zip(seqs, targets, strict=True)
        ]
        num_known = [seq.num_tokens + k for seq, k in zip(seqs, draws.ahead or (), strict=True)]
        histories = [
            seq.token_ids[: count if p.has_penalties else 0]
            for seq, p, count in zip(seqs, params, num_known, strict=True)
        ]
        batch = _sampling_batch(seqs, params)
        guides = [seq.guide if k < 0 else None for seq, k in zip(seqs, targets, strict=True)]
        if any(guide is not None for guide in guides):
            batch = _masked(batch, guides, draws.ahead)
        batch.position[:] = [
            count - seq.num_prompt_tokens for count, seq in zip(num_known, seqs, strict=True)
        ]
        return replace(
            batch,
            history_ids=np.concatenate(histories),
            history_offsets=_offsets(map(len, histories)),
            targets=np.array(targets, np.int32),
        )


class Draws(NamedTuple):
    """What is drawn in a step: a token after the last known one and after each draft behind it; or
    asked for, where the next token is the prompt's."""

    rows: Int32  # (R,) of the step's tokens
    seqs: list[Sequence]  # of each
    ahead: list[int] | None  # (R,) drafts before each, None: no sequence has any
    targets: list[int] | None = None  # (R,) the prompt's token, -1: one is drawn


def _draws(seqs: list[Sequence], num_drafts: Int32, ends: Int32) -> Draws:
    """num_drafts: (S,), negative where tokens are still to come. ends: (S,) behind its tokens."""
    if not num_drafts.any():
        return Draws(ends - np.int32(1), seqs, None)
    num_drawn = np.maximum(num_drafts + 1, 0)  # (S,)
    owners = np.repeat(np.arange(len(seqs)), num_drawn)  # (R,)
    ahead = np.arange(len(owners), dtype=np.int32)
    ahead -= (np.cumsum(num_drawn, dtype=np.int32) - num_drawn)[owners]
    rows = (ends - num_drawn)[owners] + ahead
    return Draws(rows, [seqs[row] for row in owners.tolist()], ahead.tolist())


def _draws_and_scores(scheduled: AbstractSequence[Scheduled], cu_seqlens_q: Int32) -> Draws:
    rows, seqs, ahead, targets = list[int](), list[Sequence](), list[int](), list[int]()
    for (seq, num_tokens), first in zip(scheduled, cu_seqlens_q.tolist(), strict=False):
        start, stop = seq.num_computed_tokens, seq.num_computed_tokens + num_tokens
        scored = seq.rows_to_score(num_tokens)
        drawn = range(seq.num_tokens - 1, stop)
        rows += [first + position - start for position in (*scored, *drawn)]
        seqs += [seq] * (len(scored) + len(drawn))
        ahead += [0] * len(scored) + [position - drawn.start for position in drawn]
        targets += seq.token_ids[scored.start + 1 : scored.stop + 1].tolist() + [-1] * len(drawn)
    return Draws(np.array(rows, np.int32), seqs, ahead, targets)


def _new_token_ids(scheduled: AbstractSequence[Scheduled]) -> Int32:
    """The ids (T,) that are computed in this step."""
    pieces = [
        seq.token_ids[seq.num_computed_tokens : seq.num_computed_tokens + num_tokens]
        for seq, num_tokens in scheduled
    ]
    return np.concatenate(pieces)


def _sampling_batch(seqs: list[Sequence], params: list[SamplingParams]) -> SamplingBatch:
    """What stays the same while `seqs` sample together; position and history are set per step."""
    biases = [pair for p in params for pair in p.logit_bias]
    num_prompt = [
        seq.num_prompt_tokens if p.has_penalties else 0 for seq, p in zip(seqs, params, strict=True)
    ]
    empty: NDArray[np.int32] = np.empty(0, np.int32)
    return SamplingBatch(
        temperature=np.array([p.temperature for p in params], np.float32),
        top_p=np.array([p.top_p for p in params], np.float32),
        top_k=np.array([p.top_k for p in params], np.int32),
        min_p=np.array([p.min_p for p in params], np.float32),
        repetition_penalty=np.array([p.repetition_penalty for p in params], np.float32),
        presence_penalty=np.array([p.presence_penalty for p in params], np.float32),
        frequency_penalty=np.array([p.frequency_penalty for p in params], np.float32),
        seed=np.array([seq.seed for seq in seqs], np.uint64),
        position=np.empty(len(seqs), np.int32),
        num_logprobs=np.array([-1 if p.logprobs is None else p.logprobs for p in params], np.int32),
        history_ids=empty,
        history_offsets=np.zeros(len(seqs) + 1, np.int32),
        history_num_prompt=np.array(num_prompt, np.int32),
        bias_ids=np.array([token_id for token_id, _ in biases], np.int32),
        bias_values=np.array([value for _, value in biases], np.float32),
        bias_offsets=_offsets(len(p.logit_bias) for p in params),
        targets=np.full(len(seqs), -1, np.int32),
        masks=np.empty((0, 0), np.uint32),
        mask_rows=np.full(len(seqs), -1, np.int32),
    )


def _masked(
    batch: SamplingBatch, guides: list[Guide | None], ahead: list[int] | None
) -> SamplingBatch:
    """`batch` with the masks of its rows, those that are guided. See `Draws`."""
    masks: list[UInt32] = []
    mask_rows = np.full(len(guides), -1, np.int32)
    for row, guide in enumerate(guides):
        if guide is not None:
            mask_rows[row] = len(masks)
            masks.append(guide.masks[0 if ahead is None else ahead[row]])
    return replace(batch, masks=np.stack(masks), mask_rows=mask_rows)


def _offsets(lens: Iterable[int]) -> Int32:
    """Where each of the ragged pieces starts, and at the end where the last one stops."""
    sizes = [0, *lens]
    return np.cumsum(sizes, dtype=np.int32)
