"""A runner that says what a test wants said, in tokens that the grammar lets it draw.

It plays any model's answer through the real engine: what the engine asks for is a token at a place,
and where a mask allows none that goes on with the script, that is an AssertionError.
"""

from collections import deque
from collections.abc import Sequence
from random import Random

import numpy as np
from numpy.typing import NDArray

from llamastream.engine.reference_sampler import allowed
from llamastream.engine.runner import ForwardBatch, Runner, StepResult
from llamastream.text import Tokenizer
from tests.doubles.call_formats import Piece


class ScriptedRunner(Runner):
    """Every request is given the same answer, until `play` is called again.

    Text is cut into whatever tokens there are for it, by luck: `cutting` is its seed.
    """

    num_blocks, block_size, max_model_len = 2048, 16, 8192

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.vocab_size = tokenizer.num_tokens
        texts = {i: tokenizer.token_bytes(i) for i in range(self.vocab_size)}
        self._texts = {i: b for i, b in texts.items() if b and i not in tokenizer.special_ids}

    def play(self, pieces: Sequence[Piece], end: int, *, cutting: int = 0) -> None:
        """`end`: the token behind all."""
        self._rest = deque[bytes | int]()
        for piece in (*pieces, end):
            if isinstance(piece, int):
                self._rest.append(piece)
            elif self._rest and isinstance(self._rest[-1], bytes):
                self._rest[-1] += piece.encode()
            elif piece:
                self._rest.append(piece.encode())
        self._rng = Random(cutting)
        self.drawn: list[int] = []

    def run(self, batch: ForwardBatch) -> StepResult:
        sampling = batch.sampling
        ids = []
        for row, at in enumerate(batch.logits_indices.tolist()):
            place = int(sampling.position[row])
            mask = sampling.mask_rows[row]
            may = np.ones(self.vocab_size, bool)
            if mask >= 0:
                may = allowed(sampling.masks[mask], self.vocab_size)
            # A row behind a draft that is not drawn is nobody's.
            is_next = place == 0 or self.drawn[place - 1 : place] == [int(batch.token_ids[at])]
            if is_next and place == len(self.drawn):
                self.drawn.append(self._draw(may))
            ids.append(self.drawn[place] if is_next else int(np.flatnonzero(may)[0]))
        none = np.full((len(ids), 0), -1, np.int32)
        nan = np.full(len(ids), np.nan, np.float32)
        return StepResult(np.array(ids, np.int32), nan, none, none.astype(np.float32), None)

    def close(self) -> None: ...

    def _draw(self, may: NDArray[np.bool_]) -> int:
        piece = self._rest.popleft()
        if isinstance(piece, int):
            assert may[piece], f"the grammar refuses token {piece}"
            return piece
        fitting = [i for i, text in self._texts.items() if piece.startswith(text) and may[i]]
        assert fitting, f"the grammar refuses {piece!r}"
        drawn = self._rng.choice(fitting)
        if left := piece[len(self._texts[drawn]) :]:
            self._rest.appendleft(left)
        return drawn
