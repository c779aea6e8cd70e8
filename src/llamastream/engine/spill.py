"""Between the cache in memory and the one on disk: what goes out behind a step, what is read ahead.

A sequence whose beginning is on disk waits for it before it is queued, with blocks held for that.
Then they are cached like any: nothing else of the engine knows of the disk. Belongs to the engine
thread.
"""

import queue
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from llamastream.engine.block_manager import BlockManager
from llamastream.engine.disk_cache import DiskCache, Owner
from llamastream.engine.runner import Runner
from llamastream.engine.sequence import Sequence
from llamastream.types import DiskStatus

# Copied of one sequence behind one step beyond what that filled, or one block: about 1 ms.
STEP_BYTES = 4 * 2**20


@dataclass(slots=True, eq=False)
class _Reading:
    """Compared by identity, as sequences are."""

    seq: Sequence | None  # None: it ended meanwhile
    held: dict[bytes, int]
    filled: list[bool]


class Spill:
    def __init__(
        self, runner: Runner, disk: DiskCache | None, blocks: BlockManager, wake: Callable[[], None]
    ) -> None:
        """Without a disk, or a runner whose blocks can be had, all of it does nothing. `wake` is
        called, on some thread, when something was read."""
        self._runner = runner
        self._disk = disk if runner.block_bytes else None
        self._blocks = blocks
        self._wake = wake
        self._readings: list[_Reading] = []
        self._over: queue.SimpleQueue[_Reading] = queue.SimpleQueue()
        self._blocks_a_step = max(1, STEP_BYTES // max(runner.block_bytes, 1))
        if self._disk is not None:
            self._disk.attach(runner)

    def __iter__(self) -> Iterator[Sequence]:
        """Those that wait."""
        return (one.seq for one in self._readings if one.seq is not None)

    @property
    def is_reading(self) -> bool:
        return bool(self._readings)

    @property
    def held(self) -> Iterator[int]:
        """Blocks that are being filled."""
        return (block for one in self._readings for block in one.held.values())

    def fetch(self, seq: Sequence, *, num_running: int) -> bool:
        """Whether `seq` waits for blocks from the disk: `fetched` gives it back."""
        if self._disk is None:
            return False
        # As with a newcomer's blocks: one stays free for each running sequence.
        held = self._blocks.hold(seq, self._disk.holds, keep_free=num_running)
        if not held:
            return False
        reading = _Reading(seq, held, [])
        self._readings.append(reading)

        def on_done(filled: list[bool]) -> None:
            reading.filled = filled
            self._over.put(reading)
            self._wake()

        wanted = [(digest, self._runner.block(block)) for digest, block in held.items()]
        self._disk.read(wanted, on_done)
        return True

    def fetched(self) -> list[Sequence]:
        """Those that need not wait any more, each once."""
        seqs = []
        while self._readings and not self._over.empty():
            reading = self._over.get()
            if (seq := self._take_back(reading)) is not None:
                seqs.append(seq)
        return seqs

    def forget(self, seq: Sequence) -> bool:
        """It has ended; whether it was waiting here."""
        for one in self._readings:
            if one.seq is seq:
                one.seq = None
                return True
        return False

    def offer(self, seq: Sequence, *, num_filled: int, is_last: bool) -> None:
        """Have those blocks of `seq` kept that are computed by now, some at a time: those that this
        step filled took much longer to compute than to copy."""
        owner = seq.owner
        if self._disk is None or not isinstance(owner, Owner):
            return
        end = seq.num_registered_blocks
        if not is_last:
            end = min(end, seq.num_offered_blocks + max(self._blocks_a_step, num_filled))
        while seq.num_offered_blocks < end:
            index = seq.num_offered_blocks
            block = self._runner.block(seq.block_table[index])
            if not self._disk.offer(owner, seq.block_hashes[index], block):
                break
            seq.num_offered_blocks += 1
        if is_last:
            self._disk.num_not_offered += seq.num_registered_blocks - seq.num_offered_blocks

    def reset(self, blocks: BlockManager) -> None:
        """All blocks are those of `blocks` now: nothing is read into them any more."""
        while self._readings:
            self._take_back(self._over.get())
        self._blocks = blocks

    def status(self) -> DiskStatus:
        return DiskStatus() if self._disk is None else self._disk.status()

    def close(self) -> None:
        if self._disk is not None:
            self._disk.close()

    def _take_back(self, reading: _Reading) -> Sequence | None:
        assert self._disk is not None
        self._readings.remove(reading)
        self._blocks.fill(reading.held, reading.filled)
        self._disk.num_read += sum(reading.filled)
        return reading.seq
