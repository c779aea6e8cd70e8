"""Who owns which block, and which prefixes are found again."""

import numpy as np
import pytest

from llamastream.engine.block_manager import BlockManager, NoFreeBlocks
from llamastream.engine.sequence import Sequence
from llamastream.sampling import SamplingParams


def sequence(token_ids: list[int], *, room: int = 0, cache_salt: bytes = b"") -> Sequence:
    return Sequence(
        request_id="",
        token_ids=np.array(token_ids + [0] * room, np.int32),
        num_prompt_tokens=len(token_ids),
        num_tokens=len(token_ids),
        sampling=SamplingParams(),
        seed=0,
        cache_salt=cache_salt,
    )


def manager(num_blocks: int = 8, *, enable_prefix_caching: bool = True) -> BlockManager:
    return BlockManager(num_blocks, 4, enable_prefix_caching=enable_prefix_caching)


def compute(blocks: BlockManager, seq: Sequence) -> int:
    """Allocate and pretend to have computed all of `seq`; returns the cached tokens."""
    found = blocks.allocate(seq)
    seq.num_computed_tokens = seq.num_tokens
    blocks.register(seq)
    return found


@pytest.mark.parametrize(("num_tokens", "num_found"), [(7, 4), (8, 4), (9, 8), (12, 8), (13, 12)])
def test_a_prefix_is_found_by_whole_blocks_leaving_a_token_to_compute(
    num_tokens: int, num_found: int
) -> None:
    blocks = manager()
    first = sequence(list(range(16)))
    compute(blocks, first)
    second = sequence(list(range(num_tokens)))
    assert blocks.allocate(second) == num_found
    assert second.block_table[: num_found // 4] == first.block_table[: num_found // 4]
    blocks.check_integrity([first, second])


def test_a_freed_prefix_is_found_until_its_blocks_are_needed() -> None:
    blocks = manager()
    first = sequence(list(range(9)))
    compute(blocks, first)
    blocks.free(first)
    assert blocks.num_free_blocks == 8
    again = sequence(list(range(9)))
    assert blocks.allocate(again) == 8
    blocks.free(again)
    filler = sequence([50] * 32)
    blocks.allocate(filler)
    blocks.free(filler)
    assert blocks.allocate(sequence(list(range(9)))) == 0


@pytest.mark.parametrize(
    "other",
    [
        sequence(list(range(12)), cache_salt=b"another key"),
        sequence([99, *range(1, 12)]),
        sequence([*range(4, 12), 1]),  # equal blocks at another place
    ],
    ids=["salt", "first token", "place"],
)
def test_a_prefix_is_not_found_with_another(other: Sequence) -> None:
    blocks = manager()
    compute(blocks, sequence(list(range(12)), cache_salt=b"a key"))
    assert blocks.allocate(other) == 0


def test_nothing_is_found_with_prefix_caching_off() -> None:
    blocks = manager(enable_prefix_caching=False)
    compute(blocks, sequence(list(range(9))))
    assert blocks.allocate(sequence(list(range(9)))) == 0


def test_a_block_is_not_found_before_it_was_computed() -> None:
    blocks = manager()
    first = sequence(list(range(12)))
    blocks.allocate(first)
    first.num_computed_tokens = 7
    blocks.register(first)
    assert blocks.allocate(sequence(list(range(12)))) == 4


def test_the_tail_of_a_prefix_is_evicted_first() -> None:
    blocks = manager(num_blocks=4)
    prefix = sequence(list(range(16)))
    compute(blocks, prefix)
    blocks.free(prefix)
    blocks.allocate(sequence([50] * 8))
    # The two blocks that are left are the first two, which is of use to any prompt that begins so.
    assert blocks.allocate(sequence(list(range(8)))) == 4


def test_the_least_recently_freed_prefix_is_evicted_first() -> None:
    blocks = manager(num_blocks=4)
    old, new = sequence([1] * 5), sequence([2] * 5)
    compute(blocks, old)
    compute(blocks, new)
    blocks.free(old)
    blocks.free(new)
    filler = sequence([3] * 12)  # the two blocks without a full content, then the oldest prefix
    blocks.allocate(filler)
    blocks.free(filler)
    assert blocks.allocate(sequence([1] * 5)) == 0
    assert blocks.allocate(sequence([2] * 5)) == 4


def test_equal_blocks_computed_twice_are_both_given_back() -> None:
    blocks = manager()
    first, second = sequence(list(range(9))), sequence(list(range(9)))
    blocks.allocate(first)
    blocks.allocate(second)
    for seq in (first, second):
        seq.num_computed_tokens = 9
        blocks.register(seq)
    blocks.check_integrity([first, second])
    blocks.free(first)
    blocks.check_integrity([second])
    blocks.free(second)
    blocks.check_integrity([])
    assert blocks.num_free_blocks == 8
    assert blocks.allocate(sequence(list(range(9)))) == 8


def test_a_sequence_that_does_not_fit_changes_nothing() -> None:
    blocks = manager(num_blocks=4)
    compute(blocks, sequence(list(range(8))))
    big = sequence(list(range(21)))
    with pytest.raises(NoFreeBlocks):
        blocks.allocate(big)
    assert big.block_table == [] and blocks.num_free_blocks == 2
    blocks.allocate(sequence([9] * 8))
    assert blocks.num_free_blocks == 0


def test_revived_blocks_count_against_the_free_ones() -> None:
    blocks = manager(num_blocks=4)
    cached = sequence(list(range(9)))
    compute(blocks, cached)
    blocks.free(cached)
    with pytest.raises(NoFreeBlocks):
        blocks.allocate(sequence(list(range(9))), keep_free=2)
    assert blocks.allocate(sequence(list(range(9))), keep_free=1) == 8


def test_growing_takes_a_block_only_at_its_edge() -> None:
    blocks = manager(num_blocks=2)
    seq = sequence([1, 2, 3], room=6)
    blocks.allocate(seq)
    for num_tokens, num_blocks in [(4, 1), (5, 2), (8, 2)]:
        seq.num_tokens = num_tokens
        blocks.grow(seq)
        assert len(seq.block_table) == num_blocks
    seq.num_tokens = 9
    with pytest.raises(NoFreeBlocks):
        blocks.grow(seq)
    assert len(seq.block_table) == 2


def test_integrity_check_notices_a_lost_block() -> None:
    blocks = manager()
    seq = sequence([1] * 8)
    blocks.allocate(seq)
    blocks.check_integrity([seq])
    with pytest.raises(AssertionError, match="reference count"):
        blocks.check_integrity([])
