"""No key waits for another: seats and tokens are shared out by key, and never at a token's cost."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import count
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduling import BLOCK_SIZE, scheduler, sequence, step

from llamastream.engine.fairness import CREDIT, QUANTUM, Shares
from llamastream.engine.scheduler import Scheduler
from llamastream.engine.sequence import Sequence

Shape = Callable[[], tuple[int, int]]  # lengths of a prompt and its answer


class Crowd:
    """Keys that always have `depth` requests in the engine, and what became of them."""

    def __init__(self, scheduler: Scheduler, shapes: dict[str, Shape], *, depth: int) -> None:
        self.scheduler = scheduler
        self.num_tokens = defaultdict[str, int](int)  # computed for the first time, by key
        self.num_ended = defaultdict[str, int](int)
        self.num_preempted = 0
        self.on_step: Callable[[dict[str, int]], None] = lambda given: None
        self.begun = defaultdict[str, list[int]](list)  # numbers in the order of their first tokens
        self._shapes, self._depth = shapes, depth
        self._alive: dict[str, list[Sequence]] = {scope: [] for scope in shapes}
        self._num_known = defaultdict[str, int](int)  # tokens computed so far, by name
        self._numbers = {scope: count() for scope in shapes}

    def add(self, scope: str, num_prompt: int, max_tokens: int) -> Sequence:
        name = f"{scope}{next(self._numbers.setdefault(scope, count()))}"
        seq = sequence(name, num_prompt, max_tokens, scope=scope)
        self._alive.setdefault(scope, []).append(seq)
        self.scheduler.add(seq)
        return seq

    def step(self) -> dict[str, int]:
        for scope, shape in self._shapes.items():
            while len(self._alive[scope]) < self._depth:
                self.add(scope, *shape())
        before = {seq.request_id for seq in self.scheduler.running}
        given = step(self.scheduler)
        self.on_step(given)
        after = {seq.request_id for seq in self.scheduler.running}
        self.num_preempted += len(before - after)
        for name in given:
            scope, number = name[0], int(name[1:])
            if number not in self.begun[scope]:
                self.begun[scope].append(number)
        for seq in list(self.scheduler.running):
            num_new = seq.num_computed_tokens - self._num_known[seq.request_id]
            if num_new > 0:
                self.num_tokens[seq.scope] += num_new
                self._num_known[seq.request_id] += num_new
            if seq.finish_reason() is not None:
                self.scheduler.remove(seq)
                self._alive[seq.scope].remove(seq)
                self.num_ended[seq.scope] += 1
        return given

    def steps_until(self, seq: Sequence, limit: int) -> int:
        """How many steps `seq` takes to its end."""
        for number in range(1, limit + 1):
            self.step()
            if seq.finish_reason() is not None:
                return number
        raise AssertionError(f"{seq.request_id} has not ended after {limit} steps")


def test_another_key_gets_a_seat_in_the_next_step_and_the_newest_gives_it_up() -> None:
    crowd = Crowd(scheduler(max_num_seqs=4), {"a": lambda: (2, 1000)}, depth=20)
    for _ in range(10):
        crowd.step()
    crowd.add("b", 3, 1)
    given = crowd.step()
    assert given == {"a0": 1, "a1": 1, "a2": 1, "b0": 3}
    assert next(crowd.scheduler.waiting).request_id == "a3"
    assert crowd.step()["a3"] > 0  # it goes on where it was


@pytest.mark.parametrize("max_num_seqs", [1, 2, 8])
def test_a_key_beside_another_s_flood_waits_for_one_step(max_num_seqs: int) -> None:
    crowd = Crowd(scheduler(max_num_seqs=max_num_seqs), {"a": lambda: (2, 1000)}, depth=50)
    for _ in range(500):
        crowd.step()
    for _ in range(20):
        assert crowd.steps_until(crowd.add("b", 3, 1), limit=1) == 1
        for _ in range(4):  # it is not there all the time
            crowd.step()


def test_a_flood_of_long_prompts_does_not_delay_another_key_s_prompt() -> None:
    crowd = Crowd(scheduler(num_blocks=1000), {"a": lambda: (400, 1)}, depth=50)
    for _ in range(20):
        crowd.step()
    prompt = crowd.add("b", 30, 1)
    assert crowd.steps_until(prompt, limit=2) == 2  # as long as alone


def test_blocks_are_given_up_too() -> None:
    crowd = Crowd(scheduler(num_blocks=12), {"a": lambda: (8, 30)}, depth=10)
    for _ in range(30):
        crowd.step()
    assert crowd.steps_until(crowd.add("b", 16, 1), limit=2) <= 2


@pytest.mark.parametrize(("num_blocks", "num_preempted"), [(44, 0), (53, 1)])
def test_nobody_gives_way_where_that_would_not_make_room(
    num_blocks: int, num_preempted: int
) -> None:
    crowd = Crowd(scheduler(num_blocks=num_blocks, max_prefill_beside_decode=64), {}, depth=0)
    for _ in range(2):
        crowd.add("b", 4, 100)
    for _ in range(16):
        crowd.step()
    crowd.add("a", 60, 10)
    for _ in range(5):
        crowd.step()
    crowd.add("a", 110, 1)
    crowd.step()
    assert crowd.num_preempted == num_preempted


def test_more_keys_than_seats_take_turns() -> None:
    keys = "abcdefg"
    crowd = Crowd(scheduler(max_num_seqs=3), {k: lambda: (2, 5000) for k in keys}, depth=2)
    for _ in range(2000):
        crowd.step()
    shares = [crowd.num_tokens[key] for key in keys]
    assert min(shares) > 0.6 * max(shares)


@pytest.mark.parametrize(
    "shape",
    [lambda: (2, 100), lambda: (2, 10), lambda: (60, 3), lambda: (3, 300)],
    ids=["alike", "short", "prompts", "long"],
)
def test_keys_that_always_want_more_get_equally_many_tokens(shape: Shape) -> None:
    crowd = Crowd(scheduler(num_blocks=2000), {"a": lambda: (2, 100), "b": shape}, depth=20)
    for _ in range(1500):
        crowd.step()
    a, b = crowd.num_tokens["a"], crowd.num_tokens["b"]
    assert abs(a - b) <= CREDIT + QUANTUM
    assert crowd.num_preempted < 60


def test_what_a_preemption_lost_is_not_counted_again() -> None:
    shares, seq = Shares(), sequence("a", 10)
    shares.add(seq)
    shares.start(seq)
    seq.num_preempted_tokens = 8
    shares.count_prompt(seq, 5)
    assert shares.of(seq).num_tokens == 0
    seq.num_computed_tokens = 5
    shares.count_prompt(seq, 5)
    assert shares.of(seq).num_tokens == 2
    shares.count_prompt(seq, 5, sign=-1)
    assert shares.of(seq).num_tokens == 0


def test_a_key_saves_nothing_up() -> None:
    crowd = Crowd(scheduler(max_num_seqs=4), {"a": lambda: (2, 1000)}, depth=20)
    for _ in range(2000):
        crowd.step()
    for _ in range(8):
        crowd.add("b", 2, 1000)
    for _ in range(CREDIT + QUANTUM):  # by then it has had its credit
        crowd.step()
    before = dict(crowd.num_tokens)
    for _ in range(400):
        crowd.step()
    a, b = (crowd.num_tokens[key] - before[key] for key in "ab")
    assert abs(a - b) <= 2 * QUANTUM


def random_crowd(rng: Random) -> Crowd:
    """Up to five keys with requests of all lengths, hardly more blocks than one needs."""

    def shape() -> tuple[int, int]:
        return rng.choice([1, 3, 9, 40]), rng.choice([1, 2, 10, 50])

    s = scheduler(
        num_blocks=-(-90 // BLOCK_SIZE) + rng.randint(0, 20),
        max_num_seqs=rng.randint(1, 8),
        max_num_batched_tokens=rng.choice([8, 16, 64]),
        max_prefill_beside_decode=rng.choice([4, 64]),
    )
    keys = "abcde"[: rng.randint(1, 5)]
    return Crowd(s, {key: shape for key in keys}, depth=rng.choice([1, 3, 12]))


@settings(max_examples=40, deadline=None)
@given(rng=st.randoms(use_true_random=True))
def test_whatever_others_do_a_request_ends(rng: Random) -> None:
    crowd = random_crowd(rng)
    for _ in range(rng.randint(0, 200)):
        crowd.step()
    crowd.steps_until(crowd.add("x", rng.choice([1, 40]), rng.choice([1, 50])), limit=2500)


@settings(max_examples=40, deadline=None)
@given(rng=st.randoms(use_true_random=True))
def test_within_a_key_who_came_first_begins_first(rng: Random) -> None:
    crowd = random_crowd(rng)
    for _ in range(300):
        crowd.step()
    assert all(numbers == sorted(numbers) for numbers in crowd.begun.values())


@settings(max_examples=40, deadline=None)
@given(rng=st.randoms(use_true_random=True))
def test_nobody_waits_beside_room_in_cache_seats_and_step(rng: Random) -> None:
    max_num_seqs, budget = rng.randint(1, 8), rng.choice([8, 16, 64])
    s = scheduler(
        num_blocks=30,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=budget,
        max_prefill_beside_decode=budget + max_num_seqs,
    )
    crowd = Crowd(s, {key: lambda: (rng.choice([1, 9, 40]), 20) for key in "abc"}, depth=4)

    def check(given: dict[str, int]) -> None:
        if sum(given.values()) < budget and len(s.running) < max_num_seqs:
            for seq in heads(s):
                assert not s.blocks.would_fit(seq, keep_free=len(s.running), freed=())

    crowd.on_step = check
    for _ in range(200):
        crowd.step()


def heads(scheduler: Scheduler) -> Iterable[Sequence]:
    """Who waits first of each key."""
    return {seq.scope: seq for seq in reversed(list(scheduler.waiting))}.values()
