"""A grammar whose masks are made of a hash of the tokens before: it knows no text."""

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from random import Random

import numpy as np

from llamastream.types import Constraint

Hook = Callable[[tuple[int, ...]], None]


class ToyGrammar:
    """Every third token or so is forced. `before_mask` is called with the tokens behind which a
    mask is asked for, on whatever thread asks: it may wait, or raise."""

    def __init__(self, vocab_size: int, *, seed: int = 0, before_mask: Hook | None = None) -> None:
        self.vocab_size, self.seed = vocab_size, seed
        self.before_mask = before_mask or (lambda ids: None)

    def start(self) -> "ToyConstraint":
        return ToyConstraint(self)

    def allowed(self, ids: Sequence[int]) -> list[int]:
        """Rising; at least one."""
        data = repr((self.seed, list(ids))).encode()
        rng = Random(hashlib.blake2b(data, digest_size=8).digest())
        count = rng.choice([1, 2, 5, self.vocab_size // 2])
        return sorted(rng.sample(range(self.vocab_size), count))


class ToyConstraint:
    def __init__(self, grammar: ToyGrammar, ids: Sequence[int] = ()) -> None:
        self._grammar, self._ids = grammar, list(ids)
        self._in_use = threading.Lock()

    def append(self, token_ids: Sequence[int]) -> None:
        with self._alone():
            for token_id in token_ids:
                assert token_id in self._grammar.allowed(self._ids), "a forbidden token was drawn"
                self._ids.append(token_id)

    def mask(self) -> bytes:
        with self._alone():
            self._grammar.before_mask(tuple(self._ids))
            bits = np.zeros(-(-self._grammar.vocab_size // 32) * 32, np.uint8)
            bits[self._grammar.allowed(self._ids)] = 1
            return np.packbits(bits, bitorder="little").tobytes()

    def forced(self) -> list[int]:
        ids = list(self._ids)
        while len(only := self._grammar.allowed(ids)) == 1 and len(ids) < len(self._ids) + 9:
            ids += only
        return ids[len(self._ids) :]

    def num_allowed(self, token_ids: Sequence[int]) -> int:
        ids = list(self._ids)
        for count, token_id in enumerate(token_ids):
            if token_id not in self._grammar.allowed(ids):
                return count
            ids.append(token_id)
        return len(token_ids)

    def fork(self) -> Constraint:
        return ToyConstraint(self._grammar, self._ids)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        assert self._in_use.acquire(blocking=False), "used by two threads at once"
        try:
            yield
        finally:
            self._in_use.release()
