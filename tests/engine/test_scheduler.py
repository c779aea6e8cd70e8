"""Who is computed next, who waits and who is preempted."""

from scheduling import scheduler, sequence, step


def test_without_sequences_nothing_is_scheduled() -> None:
    assert scheduler().schedule() == []


def test_a_long_prompt_is_cut_by_the_budget_and_never_delays_a_decode() -> None:
    s = scheduler(max_num_batched_tokens=16)
    s.add(sequence("a", 3))
    assert step(s) == {"a": 3}
    s.add(sequence("b", 40))
    assert [step(s) for _ in range(4)] == [
        {"a": 1, "b": 15},
        {"a": 1, "b": 15},
        {"a": 1, "b": 10},
        {"a": 1, "b": 1},
    ]


def test_beside_decodes_all_prompts_together_get_a_share() -> None:
    s = scheduler(max_prefill_beside_decode=7)
    s.add(sequence("a", 16))
    assert step(s) == {"a": 16}  # nobody to disturb
    s.add(sequence("b", 8))
    s.add(sequence("c", 8))
    assert [step(s) for _ in range(3)] == [
        {"a": 1, "b": 6},
        {"a": 1, "b": 2, "c": 4},
        {"a": 1, "b": 1, "c": 4},
    ]


def test_beside_many_decodes_prompts_keep_a_quarter_of_their_share() -> None:
    s = scheduler(max_prefill_beside_decode=10)
    for name in "abcd":
        s.add(sequence(name, 2))
    assert sum(step(s).values()) == 8
    s.add(sequence("e", 20))
    assert step(s)["e"] == 6  # one less for each answer that goes on
    s = scheduler(max_prefill_beside_decode=4)
    for name in "abcdef":
        s.add(sequence(name, 2))
    assert sum(step(s).values()) == 12
    s.add(sequence("g", 20))
    assert step(s)["g"] == 1


def test_decodes_come_before_older_prompts() -> None:
    s = scheduler(max_num_batched_tokens=16)
    s.add(sequence("a", 40))
    s.add(sequence("b", 2))
    assert [step(s) for _ in range(4)] == [
        {"a": 16},
        {"a": 16},
        {"a": 8, "b": 2},
        {"a": 1, "b": 1},
    ]


def test_several_prompts_share_one_step_in_order_of_arrival() -> None:
    s = scheduler(max_num_batched_tokens=16)
    for name in "abc":
        s.add(sequence(name, 7))
    assert step(s) == {"a": 7, "b": 7, "c": 2}
    assert step(s) == {"a": 1, "b": 1, "c": 5}


def test_no_more_than_max_num_seqs_run() -> None:
    s = scheduler(max_num_seqs=2)
    first = sequence("a", 2)
    s.add(first)
    for name in "bc":
        s.add(sequence(name, 2))
    assert step(s) == {"a": 2, "b": 2}
    assert step(s) == {"a": 1, "b": 1}
    s.remove(first)
    assert step(s) == {"b": 1, "c": 2}


def test_the_queue_is_first_come_first_served_even_if_a_later_one_would_fit() -> None:
    s = scheduler(num_blocks=6)
    s.add(sequence("a", 12))
    s.add(sequence("b", 16))
    s.add(sequence("c", 4))
    assert step(s) == {"a": 12}
    assert [seq.request_id for seq in s.waiting] == ["b", "c"]


def test_a_newcomer_leaves_a_free_block_for_every_running_sequence() -> None:
    s = scheduler(num_blocks=5)
    s.add(sequence("a", 8))
    s.add(sequence("b", 12))
    assert step(s) == {"a": 8}  # b would fit, but a's next token would preempt it again
    assert [seq.request_id for seq in s.waiting] == ["b"]


def test_the_latest_arrival_is_preempted_and_heads_the_queue() -> None:
    s = scheduler(num_blocks=7)
    for name in "abc":
        s.add(sequence(name, 4))
    assert step(s) == {"a": 4, "b": 4, "c": 4}
    s.add(sequence("d", 4))
    for _ in range(4):
        assert step(s) == {"a": 1, "b": 1, "c": 1}  # d finds no block to spare
    assert step(s) == {"a": 1, "b": 1}
    assert [seq.request_id for seq in s.waiting] == ["c", "d"]
    head = next(s.waiting)
    assert head.num_computed_tokens == 0 and head.block_table == []
    assert head.num_tokens == 9  # what it had drawn stays


def test_a_preempted_sequence_gives_way_to_all_it_was_behind() -> None:
    s = scheduler(num_blocks=4)
    first, second = sequence("a", 4), sequence("b", 4)
    s.add(first)
    s.add(second)
    for _ in range(20):
        if "b" not in step(s):
            break
    assert [seq.request_id for seq in s.running] == ["a"]
    s.remove(first)
    assert step(s) == {"b": second.num_tokens - 1}  # one more was drawn in that step
