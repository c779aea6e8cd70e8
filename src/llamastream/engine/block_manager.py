"""Who owns which block of the KV cache, and which blocks hold a prefix worth keeping.

Knows block ids and hashes, not the cache's memory. The invariant: every block is either free
(reference count 0, in the free list) or in the table of as many sequences as its count says.

    free list, oldest first             tables
    ┌───────────┬──────────────────┐    ┌─────────────────────────────────┐
    │ no hash   │ hashed, by LRU   │    │ full, hashed ...  │ being filled │
    └───────────┴──────────────────┘    └─────────────────────────────────┘
      taken first   found by hash: back into a table, nothing to compute
"""

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable

from llamastream.engine.sequence import Sequence


class NoFreeBlocks(Exception):
    """The cache is full. Nothing was changed; somebody has to free blocks first."""


class BlockManager:
    """Hands out blocks, counts references, finds shared prefixes. Called from one thread."""

    def __init__(self, num_blocks: int, block_size: int, *, enable_prefix_caching: bool) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._enable_prefix_caching = enable_prefix_caching
        self._ref_counts = [0] * num_blocks
        self._hashes: list[bytes | None] = [None] * num_blocks
        self._block_of: dict[bytes, int] = {}
        # Removal from the middle is O(1), and so is popping the oldest.
        self._free = OrderedDict.fromkeys(range(num_blocks))

    @property
    def num_free_blocks(self) -> int:
        """Blocks in no table. Those that still hold a cached prefix count: they can be taken."""
        return len(self._free)

    def allocate(self, seq: Sequence, *, keep_free: int = 0) -> int:
        """Give `seq` blocks for all its tokens, and those it expects; return how many tokens the
        prefix cache had.

        At least the last token is left to compute, so that logits exist. `keep_free` blocks must
        remain. The caller frees by `free(seq)`, once. Raises NoFreeBlocks with nothing changed.
        """
        found = self._find_prefix(seq)
        num_new = -(-seq.num_wanted_tokens // self.block_size) - len(found)
        num_revived = sum(self._ref_counts[block] == 0 for block in found)
        if num_new + num_revived + keep_free > len(self._free):
            raise NoFreeBlocks
        for block in found:
            if self._ref_counts[block] == 0:
                del self._free[block]
            self._ref_counts[block] += 1
        seq.block_table = found
        seq.block_table.extend(self._take() for _ in range(num_new))
        seq.num_registered_blocks = len(seq.block_table) - num_new
        return seq.num_registered_blocks * self.block_size

    def would_fit(self, seq: Sequence, *, keep_free: int, freed: Iterable[Sequence]) -> bool:
        """Whether `allocate` would succeed once `freed`, which have blocks, were freed."""
        released = Counter(block for one in freed for block in one.block_table)
        num_free = len(self._free) + sum(self._ref_counts[b] == n for b, n in released.items())
        found = self._find_prefix(seq)
        num_new = -(-seq.num_wanted_tokens // self.block_size) - len(found)
        num_revived = sum(self._ref_counts[block] == released[block] for block in found)
        return num_new + num_revived + keep_free <= num_free

    def grow(self, seq: Sequence) -> None:
        """Make room for the last token of `seq`. Raises NoFreeBlocks with nothing changed."""
        if len(seq.block_table) * self.block_size < seq.num_tokens:
            if not self._free:
                raise NoFreeBlocks
            seq.block_table.append(self._take())

    def reserve(self, seq: Sequence, wanted: int, *, keep_free: int) -> int:
        """Make room behind the last token of `seq` for up to `wanted` more; return for how many.

        Takes a block only while more than `keep_free` are free.
        """
        while (room := len(seq.block_table) * self.block_size - seq.num_tokens) < wanted:
            if len(self._free) <= keep_free:
                break
            seq.block_table.append(self._take())
        return min(room, wanted)

    def register(self, seq: Sequence) -> int:
        """Offer the blocks of `seq` that are full and computed by now to later sequences. How many
        are new.

        A block whose content is cached already stays private, so that a hash names one block.
        """
        num_full = seq.num_computed_tokens // self.block_size
        if num_full == seq.num_registered_blocks or not self._may_share(seq):
            return 0
        self._extend_hashes(seq, num_full)
        num_before = seq.num_registered_blocks
        for index in range(num_before, num_full):
            digest, block = seq.block_hashes[index], seq.block_table[index]
            if digest not in self._block_of:
                self._block_of[digest] = block
                self._hashes[block] = digest
        seq.num_registered_blocks = num_full
        return num_full - num_before

    def hold(
        self, seq: Sequence, is_kept: Callable[[bytes], bool], *, keep_free: int
    ) -> dict[bytes, int]:
        """Blocks for what `seq` starts with and is not cached, as far as `is_kept` elsewhere, by
        hash. They are to be filled, and given back by `fill`. `keep_free` others remain."""
        if not self._may_share(seq):
            return {}
        digests = seq.block_hashes[: self._extend_to_cached(seq)]
        known = [block for digest in digests if (block := self._block_of.get(digest)) is not None]
        unused = [block for block in reversed(known) if self._ref_counts[block] == 0]
        for block in unused:  # they are not to be taken for those that follow them
            self._free.move_to_end(block)
        held: dict[bytes, int] = {}
        for digest in digests:
            if digest in self._block_of:
                continue
            if not is_kept(digest) or len(self._free) <= keep_free + len(unused):
                break
            held[digest] = self._take()
        return held

    def fill(self, held: dict[bytes, int], filled: Iterable[bool]) -> None:
        """Take back what `hold` gave. What was filled is cached from now on."""
        for (digest, block), is_filled in reversed(list(zip(held.items(), filled, strict=True))):
            if is_filled and digest not in self._block_of:
                self._block_of[digest] = block
                self._hashes[block] = digest
            self._release(block)

    def free(self, seq: Sequence) -> None:
        """Take all blocks of `seq` back. Cached ones stay findable until they are needed."""
        # The tail goes in first and is evicted first: a prefix is of use without it, not it alone.
        for block in reversed(seq.block_table):
            self._release(block)
        seq.block_table = []

    def check_integrity(self, sequences: Iterable[Sequence], held: Iterable[int] = ()) -> None:
        """Assert the module's invariant, these being all sequences that may own blocks, and what
        `hold` gave and `fill` did not get back."""
        uses = Counter(block for seq in sequences for block in seq.block_table) + Counter(held)
        used = {block for block, count in enumerate(self._ref_counts) if count}
        assert len(self._free) + len(used) == self.num_blocks, "free + used != total"
        assert not used & self._free.keys(), "a block is free and in use"
        assert all(self._ref_counts[block] == uses[block] for block in range(self.num_blocks)), (
            "a reference count does not match the tables"
        )
        hashed = {digest: block for block, digest in enumerate(self._hashes) if digest is not None}
        assert hashed == self._block_of, "hashes of blocks and blocks of hashes disagree"

    def _may_share(self, seq: Sequence) -> bool:
        return self._enable_prefix_caching and seq.cache_salt is not None

    def _find_prefix(self, seq: Sequence) -> list[int]:
        """The cached blocks that `seq` starts with, one token at least being left over."""
        if not self._may_share(seq):
            return []
        found: list[int] = []
        for digest in seq.block_hashes[: self._extend_to_cached(seq)]:
            block = self._block_of.get(digest)
            if block is None:
                break
            found.append(block)
        return found

    def _extend_to_cached(self, seq: Sequence) -> int:
        """How many blocks of `seq` may be found and not computed; they have hashes then."""
        max_found = (seq.num_tokens - 1) // self.block_size
        if seq.prompt_logprobs is not None:  # rows are computed for what is not reported yet
            max_found = min(max_found, seq.num_scored_tokens // self.block_size)
        self._extend_hashes(seq, max_found)
        return max_found

    def _release(self, block: int) -> None:
        self._ref_counts[block] -= 1
        if self._ref_counts[block] == 0:
            self._free[block] = None
            if self._hashes[block] is None:
                self._free.move_to_end(block, last=False)

    def _extend_hashes(self, seq: Sequence, num_blocks: int) -> None:
        """Chain SHA-256 over whole blocks: equal digests mean equal salt and equal ids up to here.

        A weaker hash would let one user's crafted prompt read another's cached keys and values.
        """
        hashes, size = seq.block_hashes, self.block_size
        assert seq.cache_salt is not None
        for index in range(len(hashes), num_blocks):
            parent = hashes[-1] if hashes else hashlib.sha256(seq.cache_salt).digest()
            block_ids = seq.token_ids[index * size : (index + 1) * size]
            hashes.append(hashlib.sha256(parent + block_ids.tobytes()).digest())

    def _take(self) -> int:
        """The block whose loss costs least, now with one reference and no content."""
        block, _ = self._free.popitem(last=False)
        digest = self._hashes[block]
        if digest is not None:
            del self._block_of[digest]
            self._hashes[block] = None
        self._ref_counts[block] = 1
        return block
