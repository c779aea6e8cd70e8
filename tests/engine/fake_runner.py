"""A runner whose tokens are known in advance and that catches every wrong byte of a batch.

Each slot of its cache remembers the position and a hash of all tokens up to there. A token is
computed from what its predecessor's slot holds, so whoever reads a wrong block, a block that was
given away or a half-written prefix gets another token than `expected_tokens`, or an AssertionError.
"""

import hashlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from toy_grammar import ToyGrammar

from llamastream.engine.reference_sampler import allowed
from llamastream.engine.runner import ForwardBatch, Runner, SamplingBatch, StepResult
from llamastream.types import GenerationRequest


class Content(NamedTuple):
    position: int
    parent: bytes
    value: bytes


def chain(parent: bytes, token_id: int, position: int) -> bytes:
    data = parent + token_id.to_bytes(4, "little") + position.to_bytes(4, "little")
    return hashlib.blake2b(data, digest_size=8).digest()


class FakeRunner(Runner):
    """`failures` numbers the calls of `run` (from 0) that raise half-way.

    With `gate` set, each call waits for one release of it.
    """

    def __init__(
        self,
        *,
        num_blocks: int = 64,
        block_size: int = 4,
        max_model_len: int = 128,
        vocab_size: int = 97,
        failures: Sequence[int] = (),
        gate: threading.Semaphore | None = None,
    ) -> None:
        self.num_blocks, self.block_size = num_blocks, block_size
        self.max_model_len, self.vocab_size = max_model_len, vocab_size
        self.is_closed = False
        self.step_sizes: list[int] = []  # tokens per step
        self.entered = threading.Event()
        self._failures = frozenset(failures)
        self._gate = gate
        self._is_open = False
        self._contents: list[Content | None] = [None] * (num_blocks * block_size)

    def run(self, batch: ForwardBatch) -> StepResult:
        self.entered.set()
        if self._gate is not None and not self._is_open:
            self._gate.acquire()
        assert not self.is_closed
        check_batch(batch, self)
        call = len(self.step_sizes)
        self.step_sizes.append(len(batch.token_ids))
        values = []
        for s in range(len(batch.context_lens)):
            values += self._compute(batch, s)
        if call in self._failures:
            raise RuntimeError("scripted failure")
        return draw_rows([values[i] for i in batch.logits_indices], batch.sampling, self.vocab_size)

    def open_gate(self) -> None:
        """Let all calls pass from now on."""
        self._is_open = True
        if self._gate is not None:
            self._gate.release()

    def close(self) -> None:
        self.is_closed = True

    def _compute(self, batch: ForwardBatch, s: int) -> Iterator[bytes]:
        """Write sequence s's new slots; yields each one's value, having read all before it."""
        start, stop = batch.cu_seqlens_q[s : s + 2]
        value = self._read_context(batch, s, int(batch.positions[start]))
        for t in range(start, stop):
            position = int(batch.positions[t])
            parent, value = value, chain(value, int(batch.token_ids[t]), position)
            self._contents[batch.slot_mapping[t]] = Content(position, parent, value)
            yield value

    def _read_context(self, batch: ForwardBatch, s: int, num_tokens: int) -> bytes:
        value = b""
        for position in range(num_tokens):
            block = batch.block_tables[s, position // self.block_size]
            content = self._contents[block * self.block_size + position % self.block_size]
            assert content is not None, f"position {position} is read before it was written"
            assert content.position == position, "a slot holds another position"
            assert content.parent == value, "a slot holds another sequence's token"
            value = content.value
        return value


def check_batch(batch: ForwardBatch, runner: FakeRunner) -> None:
    """Assert everything that ForwardBatch's docstring promises."""
    for array in (batch, batch.sampling):
        for field in fields(array):
            value = getattr(array, field.name)
            if isinstance(value, np.ndarray):
                assert value.flags.c_contiguous, field.name
    for name in ("token_ids", "positions", "slot_mapping", "cu_seqlens_q", "context_lens"):
        array = getattr(batch, name)
        assert array.dtype == np.int32 and array.ndim == 1, name
    assert batch.block_tables.dtype == batch.logits_indices.dtype == np.int32
    num_tokens, num_seqs = len(batch.token_ids), len(batch.context_lens)
    assert len(batch.positions) == len(batch.slot_mapping) == num_tokens
    assert batch.cu_seqlens_q[0] == 0 and batch.cu_seqlens_q[-1] == num_tokens
    assert len(batch.cu_seqlens_q) == num_seqs + 1 == len(batch.block_tables) + 1
    assert np.all(np.diff(batch.cu_seqlens_q) > 0)
    assert np.all((batch.token_ids >= 0) & (batch.token_ids < runner.vocab_size))
    assert len(set(batch.slot_mapping.tolist())) == num_tokens, "a slot is written twice"
    assert batch.context_lens.max() <= runner.max_model_len
    owners: dict[int, int] = {}
    for s in range(num_seqs):
        check_sequence(batch, s, runner)
        for slot in batch.slot_mapping[batch.cu_seqlens_q[s] : batch.cu_seqlens_q[s + 1]].tolist():
            owners[slot // runner.block_size] = s
    for s, table in enumerate(batch.block_tables.tolist()):
        assert all(owners.get(block, s) == s for block in table), "a shared block is written"
    assert np.all(np.diff(batch.logits_indices) > 0)
    asked = set(batch.logits_indices.tolist())
    for start, stop in pairwise(batch.cu_seqlens_q.tolist()):
        rows = sorted(asked.intersection(range(start, stop)))
        assert rows == list(range(stop - len(rows), stop)), "not a sequence's last tokens"
    assert not asked or 0 <= min(asked) <= max(asked) < num_tokens
    check_sampling(batch.sampling, len(batch.logits_indices))


def check_sequence(batch: ForwardBatch, s: int, runner: FakeRunner) -> None:
    tokens = slice(batch.cu_seqlens_q[s], batch.cu_seqlens_q[s + 1])
    positions, context_len = batch.positions[tokens], int(batch.context_lens[s])
    assert positions.tolist() == list(range(context_len - len(positions), context_len))
    table = [block for block in batch.block_tables[s].tolist() if block != -1]
    assert batch.block_tables[s].tolist()[: len(table)] == table, "padding inside a table"
    assert len(table) * runner.block_size >= context_len
    assert len(set(table)) == len(table) and max(table) < runner.num_blocks and min(table) >= 0
    slots = [
        table[p // runner.block_size] * runner.block_size + p % runner.block_size for p in positions
    ]
    assert batch.slot_mapping[tokens].tolist() == slots


def check_sampling(sampling: SamplingBatch, num_rows: int) -> None:
    for field in fields(sampling):
        array = getattr(sampling, field.name)
        if field.name in ("history_ids", "bias_ids", "bias_values", "masks", "most_logprobs"):
            continue
        is_offsets = field.name.endswith("_offsets")
        assert array.shape == (num_rows + is_offsets,), field.name
    for ids, offsets in (
        (sampling.history_ids, sampling.history_offsets),
        (sampling.bias_ids, sampling.bias_offsets),
    ):
        assert ids.dtype == offsets.dtype == np.int32
        assert sampling.mask_rows.max(initial=-1) < len(sampling.masks)
        assert offsets[0] == 0 and offsets[-1] == len(ids) and np.all(np.diff(offsets) >= 0)


def draw_rows(values: list[bytes], sampling: SamplingBatch, vocab_size: int) -> StepResult:
    token_ids = [
        target
        if target >= 0
        else draw(value, row_parameters(sampling, row), allowed_ids(sampling, row, vocab_size))
        for row, (value, target) in enumerate(zip(values, sampling.targets.tolist(), strict=True))
    ]
    num_top = max(sampling.num_logprobs.max(initial=0), 0)
    top_ids = np.full((len(values), num_top), -1, np.int32)
    top_logprobs = np.full((len(values), num_top), np.nan, np.float32)
    logprobs = np.full(len(values), np.nan, np.float32)
    for row, wanted in enumerate(sampling.num_logprobs.tolist()):
        if wanted >= 0:
            logprobs[row] = -token_ids[row]
            top_ids[row, :wanted] = (token_ids[row] + np.arange(wanted)) % vocab_size
            top_logprobs[row, :wanted] = -np.arange(wanted)
    return StepResult(np.array(token_ids, np.int32), logprobs, top_ids, top_logprobs, None)


def row_parameters(sampling: SamplingBatch, row: int) -> tuple[object, ...]:
    """Everything that may decide row's token, in plain Python."""
    history = slice(sampling.history_offsets[row], sampling.history_offsets[row + 1])
    bias = slice(sampling.bias_offsets[row], sampling.bias_offsets[row + 1])
    return (
        [float(getattr(sampling, name)[row]) for name in FLOAT_PARAMETERS],
        int(sampling.top_k[row]),
        int(sampling.seed[row]),
        int(sampling.position[row]),
        sampling.history_ids[history].tolist(),
        int(sampling.history_num_prompt[row]),
        sampling.bias_ids[bias].tolist(),
        sampling.bias_values[bias].tolist(),
    )


FLOAT_PARAMETERS = (
    "temperature",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)


def allowed_ids(sampling: SamplingBatch, row: int, vocab_size: int) -> Sequence[int]:
    if sampling.mask_rows[row] < 0:
        return range(vocab_size)
    assert sampling.masks.shape[1] == -(-vocab_size // 32)
    mask = sampling.masks[sampling.mask_rows[row]]
    ids: list[int] = np.flatnonzero(allowed(mask, vocab_size)).tolist()
    return ids


def draw(value: bytes, parameters: tuple[object, ...], ids: Sequence[int]) -> int:
    data = value + repr(parameters).encode()
    return ids[int.from_bytes(hashlib.blake2b(data, digest_size=8).digest()) % len(ids)]


def expected_tokens(
    request: GenerationRequest, *, max_model_len: int, vocab_size: int
) -> list[int]:
    """What FakeRunner must give for `request`, from its fields alone: no engine, no batch."""
    params = request.sampling
    assert params.seed is not None
    ids = [*request.prompt_ids, *request.output_ids]
    value = b""
    for position, token_id in enumerate(ids):
        value = chain(value, token_id, position)
    num_prompt, tokens = len(request.prompt_ids), list(request.output_ids)
    max_tokens = params.max_tokens or max_model_len - num_prompt
    while len(tokens) < max_tokens and not (tokens and tokens[-1] in params.stop_token_ids):
        parameters = (
            [float(np.float32(getattr(params, name))) for name in FLOAT_PARAMETERS],
            params.top_k,
            params.seed,
            len(tokens),
            ids if params.has_penalties else [],
            num_prompt if params.has_penalties else 0,
            [token_id for token_id, _ in params.logit_bias],
            [float(np.float32(bias)) for _, bias in params.logit_bias],
        )
        grammar = request.grammar
        ids_allowed = (
            grammar.allowed(tokens) if isinstance(grammar, ToyGrammar) else range(vocab_size)
        )
        token_id = draw(value, parameters, ids_allowed)
        value = chain(value, token_id, len(ids))
        ids.append(token_id)
        tokens.append(token_id)
    return tokens[len(request.output_ids) :]
