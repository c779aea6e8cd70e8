"""Whether a request may enter, decided at once and with numbers.

Knows no blocks and no queue: only the engine's limits and which requests have not ended yet. One
thread admits, another may release: each operation on the dict is atomic.
"""

import math
import secrets
import time
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from llamastream.config import EngineConfig
from llamastream.engine.id_limits import IdLimits
from llamastream.engine.sequence import Guide, Sequence
from llamastream.errors import ContextLengthExceeded, InvalidRequest, Overloaded
from llamastream.types import GenerationRequest

MAX_RETRY_AFTER_S = 60
FINISH_INTERVAL_WEIGHT = 0.2  # of the newest interval in the running mean: about the last five


class Admission:
    """Turns a request into a Sequence that is sure to fit, or refuses it."""

    def __init__(
        self,
        config: EngineConfig,
        *,
        max_model_len: int,
        vocab_size: int,
        takes_targets: bool = True,
    ) -> None:
        self.max_model_len = max_model_len
        self.vocab_size = vocab_size
        self._takes_targets = takes_targets
        self._max_num_seqs = config.max_num_seqs
        self._max_num_waiting = config.max_num_waiting
        self._active: dict[str, str] = {}  # request id -> scope
        self._last_finish_s: float | None = None
        self._finish_interval_s = 1.0

    @property
    def num_active(self) -> int:
        """Requests admitted and not released: waiting or running."""
        return len(self._active)

    def admit(self, request: GenerationRequest) -> Sequence:
        """Check `request` and count it until `release`. Draws the seed if it names none.

        Raises InvalidRequest, ContextLengthExceeded or Overloaded, and then counts nothing.
        """
        if request.request_id in self._active:
            raise InvalidRequest(
                f"request_id must be new. Given: {request.request_id}, which has not ended yet.",
                param="request_id",
            )
        self._check_logit_bias(request)
        if request.prompt_logprobs is not None and not self._takes_targets:
            raise InvalidRequest(
                "Log-probabilities of the prompt (prompt_logprobs, or echo with logprobs) are not "
                "computed on this device. Serve the model with --device cpu for them.",
                param="prompt_logprobs",
            )
        seq = self._sequence(request)
        self.check_room(request.scope)
        self._active[request.request_id] = request.scope
        return seq

    def check_room(self, scope: str, count: int = 1) -> None:
        """Raises Overloaded where so many more requests of a key would not be admitted."""
        if self._is_full_for(scope, count):
            raise Overloaded(
                f"The queue is full: {self._max_num_waiting} requests (max_num_waiting) wait behind"
                f" {self._max_num_seqs} running ones. Try again later.",
                retry_after_s=self._retry_after_s(),
            )

    def release(self, request_id: str) -> None:
        """The request ended. Unknown ids are ignored."""
        self._active.pop(request_id, None)
        now = time.monotonic()
        if self._last_finish_s is not None:
            newest = now - self._last_finish_s
            self._finish_interval_s += FINISH_INTERVAL_WEIGHT * (newest - self._finish_interval_s)
        self._last_finish_s = now

    def _is_full_for(self, scope: str, count: int) -> bool:
        """Whether the queue is full, and the key has its equal part of it: with less it is let in,
        so that none can keep the others out."""
        # A request that finds a free seat does not wait, so seats and queue count together.
        limit = self._max_num_seqs + self._max_num_waiting
        if len(self._active) + count <= limit:
            return False
        counts = Counter(list(self._active.values()))
        counts[scope] += count
        return counts[scope] * len(counts) > limit

    def _sequence(self, request: GenerationRequest) -> Sequence:
        num_prompt, num_known = len(request.prompt_ids), len(request.output_ids)
        if not num_prompt:
            raise InvalidRequest("prompt must hold at least 1 token. Given: 0.", param="prompt")
        max_tokens = request.sampling.max_tokens
        if max_tokens is None:
            max_tokens = max(self.max_model_len - num_prompt, 1)
        if num_prompt + max_tokens > self.max_model_len:
            raise ContextLengthExceeded.of(
                num_prompt, request.sampling.max_tokens, self.max_model_len, param="prompt"
            )
        if num_known > max_tokens:
            raise InvalidRequest(
                f"output_ids must hold <= {max_tokens} tokens (max_tokens). Given: {num_known}.",
                param="output_ids",
            )
        # One token is drawn even where none is asked for: a sequence ends by a draw.
        token_ids = np.empty(num_prompt + max(max_tokens, 1), np.int32)
        token_ids[:num_prompt] = self._checked_ids(request.prompt_ids, "prompt")
        known = self._checked_ids(request.output_ids, "output_ids")
        token_ids[num_prompt : num_prompt + num_known] = known
        num_tokens = num_prompt + num_known
        expected = self._checked_ids(request.expected_ids, "expected_ids")
        # The last token that may be drawn is never computed.
        room = max(len(token_ids) - num_tokens - 1, 0) if self._takes_targets else 0
        expected = expected[:room]
        token_ids[num_tokens : num_tokens + len(expected)] = expected
        seed = request.sampling.seed
        grammar = request.grammar or IdLimits.of(request.sampling, self.vocab_size)
        return Sequence(
            request_id=request.request_id,
            token_ids=token_ids,
            num_prompt_tokens=num_prompt,
            num_tokens=num_tokens,
            num_expected_tokens=len(expected),
            sampling=request.sampling,
            seed=secrets.randbits(64) if seed is None else seed,
            cache_salt=request.cache_salt,
            scope=request.scope,
            prompt_logprobs=request.prompt_logprobs,
            owner=request.owner,
            guide=None if grammar is None else Guide(grammar),
        )

    def _checked_ids(self, token_ids: object, param: str) -> NDArray[np.int64]:
        try:
            ids = np.array(token_ids, np.int64)
        except OverflowError:
            raise self._unknown_id(param, "an id over 63 bits") from None
        outside = np.flatnonzero((ids < 0) | (ids >= self.vocab_size))
        if len(outside):
            raise self._unknown_id(param, f"{ids[outside[0]]} at index {outside[0]}")
        return ids

    def _check_logit_bias(self, request: GenerationRequest) -> None:
        for token_id, _ in request.sampling.logit_bias:
            if not 0 <= token_id < self.vocab_size:
                raise self._unknown_id("logit_bias", str(token_id))

    def _unknown_id(self, param: str, given: str) -> InvalidRequest:
        return InvalidRequest(
            f"{param} must hold token ids >= 0 and < {self.vocab_size} (the vocabulary). "
            f"Given: {given}.",
            param=param,
        )

    def _retry_after_s(self) -> int:
        """Until the present queue is worked off at the speed of the last few requests."""
        num_waiting = max(len(self._active) - self._max_num_seqs, 1)
        return min(max(math.ceil(num_waiting * self._finish_interval_s), 1), MAX_RETRY_AFTER_S)
