"""Draws a step's tokens on the device and brings them back in one copy.

What few requests ask for costs those steps alone: penalties and biases, whose ragged lists are
copied by themselves, and log-probabilities.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llamastream.engine.gpu.drawing import (
    bias_kernel,
    count_kernel,
    draw_kernel,
    logprob_kernel,
    mask_kernel,
    penalty_kernel,
)
from llamastream.engine.gpu.step_input import two_host_tensors
from llamastream.engine.runner import Int32, SamplingBatch, StepResult, UInt32
from llamastream.errors import InternalError
from llamastream.sampling import MAX_LOGPROBS

TILE = 8192  # ids that one program looks at together: it passes over a row some forty times
SMALL_TILE = 1024  # where many programs share a row
EXACT = {"enable_fp_fusion": False}


def every_option(num_rows: int, vocab_size: int) -> SamplingBatch:
    """Rows that make a step use every kernel there is."""
    ones, zeros = np.ones(num_rows, np.float32), np.zeros(num_rows, np.int32)
    one_each = np.arange(num_rows + 1, dtype=np.int32)
    return SamplingBatch(
        temperature=ones,
        top_p=np.full(num_rows, 0.5, np.float32),
        top_k=zeros + 2,
        min_p=np.zeros(num_rows, np.float32),
        repetition_penalty=ones,
        presence_penalty=ones,
        frequency_penalty=ones,
        seed=np.zeros(num_rows, np.uint64),
        position=zeros,
        num_logprobs=zeros,
        history_ids=zeros,
        history_offsets=one_each,
        history_num_prompt=zeros,
        bias_ids=zeros,
        bias_values=ones,
        bias_offsets=one_each,
        targets=zeros - 1,
        masks=np.full((1, -(-vocab_size // 32)), 2**32 - 1, np.uint32),
        mask_rows=zeros,
    )


@dataclass(frozen=True, slots=True)
class Draws:
    """A step's tokens, on their way to the host."""

    parts: tuple[torch.Tensor, ...]  # on the host, valid until the step after the next is queued
    num_logprobs: Int32
    masks: UInt32
    mask_rows: Int32
    vocab_size: int
    logits: torch.Tensor | None
    arrival: torch.cuda.Event | None  # None: they are here

    def result(self) -> StepResult:
        """Wait for them. Raises InternalError for logits that are not finite."""
        if self.arrival is not None:
            self.arrival.synchronize()
        wanted, num_rows = self.num_logprobs, len(self.num_logprobs)
        parts = [part.numpy() for part in self.parts]
        token_ids = parts[0][:num_rows].copy()
        if (token_ids < 0).any():
            raise InternalError(f"The logits of row {token_ids.argmin()} are not finite.")
        self._check_masks(token_ids)
        width = max(int(wanted.max(initial=0)), 0)
        given = np.arange(width) < np.minimum(wanted, self.vocab_size)[:, None]  # (R, width)
        logprobs = parts[1].view(np.float32)[:num_rows]
        top_ids = parts[2].reshape(-1, MAX_LOGPROBS)[:num_rows, :width]
        top_logprobs = parts[3].view(np.float32).reshape(-1, MAX_LOGPROBS)[:num_rows, :width]
        return StepResult(
            token_ids,
            np.where(wanted >= 0, logprobs, np.float32(np.nan)),
            np.where(given, top_ids, np.int32(-1)),
            np.where(given, top_logprobs, np.float32(np.nan)),
            None if self.logits is None else self.logits.cpu().numpy(),
        )

    def _check_masks(self, token_ids: Int32) -> None:
        """Nobody may see a forbidden id: it would be a bug, or a row whose mask allows none."""
        (rows,) = (self.mask_rows >= 0).nonzero()
        words, bits = np.divmod(token_ids[rows], 32)
        if not (self.masks[self.mask_rows[rows], words] >> bits & 1).all():
            raise InternalError("A row drew a token that its mask forbids.")


class Sampler:
    """Draws on the runner's stream. `drawn` (max_rows,) int32: the last step's ids, -1 for none."""

    def __init__(
        self, max_rows: int, vocab_size: int, step: dict[str, torch.Tensor], device: torch.device
    ) -> None:
        def new(*shape: int, dtype: torch.dtype) -> torch.Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self._vocab_size, self._step, self._device = vocab_size, step, device
        self._tile = min(TILE, 1 << (vocab_size - 1).bit_length())
        self._probs = new(max_rows, vocab_size, dtype=torch.float32)
        self._changed = new(max_rows, vocab_size, dtype=torch.float32)
        self._counts = new(max_rows, vocab_size, dtype=torch.int32)
        # Flat: drawn ids, their log-probabilities, the likeliest ids, theirs. Floats by their bits.
        size = max_rows * (2 + 2 * MAX_LOGPROBS)
        self._result = new(size, dtype=torch.int32)
        self._hosts = two_host_tensors(size, device)  # by turns, as in StepInput
        self._sizes = [max_rows, max_rows, max_rows * MAX_LOGPROBS, max_rows * MAX_LOGPROBS]
        self.drawn = self._result[:max_rows]

    def queue(
        self, logits: torch.Tensor, sampling: SamplingBatch, *, return_logits: bool = False
    ) -> Draws:
        """Draw a token for each row of `logits` (R, V) and queue the copy to the host."""
        self._hosts = self._hosts[::-1]
        if len(logits):
            self._queue_draws(logits, sampling)
        arrival = None
        if self._device.type == "cuda":
            arrival = torch.cuda.Event()
            arrival.record()
        return Draws(
            self._hosts[0].split(self._sizes),
            sampling.num_logprobs.copy(),
            sampling.masks,
            sampling.mask_rows,
            self._vocab_size,
            logits.clone() if return_logits else None,
            arrival,
        )

    def _queue_draws(self, logits: torch.Tensor, sampling: SamplingBatch) -> None:
        num_rows, step = len(logits), self._step
        draw_kernel[(num_rows,)](
            logits,
            self._changed_logits(logits, sampling),
            self._probs,
            step["temperature"],
            step["top_p"],
            step["top_k"],
            step["min_p"],
            step["seeds"],
            step["position"],
            self.drawn,
            V=self._vocab_size,
            BLOCK=self._tile,
            num_warps=16,
            **EXACT,
        )
        used = self._sizes[0]
        if sampling.num_logprobs.max() >= 0:
            used = len(self._result)
            self._queue_logprobs(logits)
        self._hosts[0][:used].copy_(self._result[:used], non_blocking=True)

    def _changed_logits(self, logits: torch.Tensor, sampling: SamplingBatch) -> torch.Tensor:
        """The logits after penalties, biases and masks; themselves where no row has any."""
        changed = self._penalized_logits(logits, sampling)
        if not len(sampling.masks):
            return changed
        mask_kernel[(len(logits), -(-self._vocab_size // SMALL_TILE))](
            changed,
            self._copy(sampling.masks.view(np.int32)),
            self._copy(sampling.mask_rows),
            self._changed,
            V=self._vocab_size,
            WORDS=sampling.masks.shape[1],
            BLOCK=SMALL_TILE,
        )
        return self._changed

    def _penalized_logits(self, logits: torch.Tensor, sampling: SamplingBatch) -> torch.Tensor:
        """The logits after penalties and biases; themselves where no row has any."""
        if not len(sampling.history_ids) and not len(sampling.bias_ids):
            return logits
        num_rows, step = len(logits), self._step
        counts, changed = self._counts[:num_rows].zero_(), self._changed
        longest = int(np.diff(sampling.history_offsets).max())
        if longest:
            count_kernel[(num_rows, -(-longest // SMALL_TILE))](
                counts,
                self._copy(sampling.history_ids),
                self.drawn,
                self._copy(sampling.history_offsets),
                self._copy(sampling.history_num_prompt),
                V=self._vocab_size,
                BLOCK=SMALL_TILE,
            )
        penalty_kernel[(num_rows, -(-self._vocab_size // SMALL_TILE))](
            logits,
            counts,
            step["repetition_penalty"],
            step["presence_penalty"],
            step["frequency_penalty"],
            changed,
            V=self._vocab_size,
            BLOCK=SMALL_TILE,
            **EXACT,
        )
        if len(sampling.bias_ids):
            bias_kernel[(num_rows,)](
                changed,
                self._copy(sampling.bias_ids),
                self._copy(sampling.bias_values),
                self._copy(sampling.bias_offsets),
                V=self._vocab_size,
            )
        return changed

    def _queue_logprobs(self, logits: torch.Tensor) -> None:
        token_ids, logprobs, top_ids, top_logprobs = self._result.split(self._sizes)
        logprob_kernel[(len(logits),)](
            logits,
            token_ids,
            self._step["num_logprobs"],
            logprobs.view(torch.float32),
            top_ids,
            top_logprobs.view(torch.float32),
            V=self._vocab_size,
            WIDTH=MAX_LOGPROBS,
            BLOCK=self._tile,
            num_warps=16,
            **EXACT,
        )

    def _copy(self, array: NDArray[Any]) -> torch.Tensor:
        host = torch.from_numpy(array)
        if self._device.type == "cuda":
            host = host.pin_memory()  # else the copy would wait for the step in flight
        return host.to(self._device, non_blocking=True)
