"""Prompts beside answers get the tokens that the machine computes in time, whatever its speed."""

import pytest

from llamastream.engine.pace import FIXED_ROWS, LEAST, LONGEST, MOST_FIXED_ROWS, Pace

MOST = 512


def simulate(fixed_s: float, token_s: float, num_answers: int, steps: int = 60) -> list[float]:
    """Step times of a machine while prompts keep arriving, after one prompt and a few answers."""

    def elapsed(num_tokens: int) -> float:
        return fixed_s + token_s * num_tokens

    pace = Pace()
    pace.learn(0, 64, elapsed(64))
    for _ in range(3):
        pace.learn(num_answers, 0, elapsed(num_answers))
    times = []
    for _ in range(steps):
        num_prompt = pace.num_prompt_tokens(num_answers, MOST)
        times.append(elapsed(num_answers + num_prompt))
        pace.learn(num_answers, num_prompt, times[-1])
    return times


@pytest.mark.parametrize("num_answers", [1, 8, 32])
@pytest.mark.parametrize("fixed_s, token_s", [(0.003, 0.0001), (0.3, 0.02), (0.4, 0.05)])
def test_no_step_takes_more_than_thrice_one_of_answers_alone(
    fixed_s: float, token_s: float, num_answers: int
) -> None:
    alone = fixed_s + token_s * num_answers
    assert max(simulate(fixed_s, token_s, num_answers)) <= 3 * alone


def test_a_fast_machine_gives_prompts_all_that_fits() -> None:
    alone = 0.003 + 0.0001
    assert simulate(0.003, 0.0001, 1)[-1] == pytest.approx(LONGEST * alone, rel=0.05)


def test_prompts_come_forward_before_anything_is_known_and_on_the_slowest_machine() -> None:
    assert Pace().num_prompt_tokens(1, MOST) == LEAST
    slow = Pace()
    slow.learn(0, 100, 1000.0)
    slow.learn(1, 0, 1.0)
    assert slow.num_prompt_tokens(1, MOST) == LEAST
    assert slow.num_prompt_tokens(1, 3) == 3


def test_what_was_learnt_follows_the_machine() -> None:
    pace = Pace()
    pace.learn(0, 100, 1.0)
    pace.learn(1, 0, 0.1)
    before = pace.num_prompt_tokens(1, MOST)
    for _ in range(40):
        pace.learn(1, 8, 0.1 + 8 * 0.001)
    assert pace.num_prompt_tokens(1, MOST) > 5 * before


def test_what_more_answers_take_is_not_taken_for_prompts() -> None:
    """They got LEAST for as long as they came, since nothing else told what answers alone take."""
    fixed_s, row_s = 0.005, 0.001

    def elapsed(num_rows: int) -> float:
        return fixed_s + row_s * num_rows

    pace = Pace()
    pace.learn(0, 64, elapsed(64))
    pace.learn(1, 0, elapsed(1))
    given = []
    for num_answers in range(1, 33):
        given.append(pace.num_prompt_tokens(num_answers, MOST))
        pace.learn(num_answers, given[-1], elapsed(num_answers + given[-1]))
    assert given[-1] == pytest.approx((LONGEST - 1) * elapsed(32) / row_s, rel=0.1)


@pytest.mark.parametrize("fixed_s, row_s", [(0.002, 0.0004), (0.3, 0.02), (0.1, 0.1)])
@pytest.mark.parametrize("num_answers", [1, 4])
def test_a_draft_costs_what_its_rows_took(fixed_s: float, row_s: float, num_answers: int) -> None:
    pace = Pace()
    pace.expect(num_answers, 0)
    pace.took(fixed_s + row_s * (num_answers + 3), num_answers + 3)  # to nothing known
    assert pace.fixed_rows == FIXED_ROWS
    for num_drafted in (0, 5, 0, 2):
        pace.expect(num_answers, 0)
        pace.took(fixed_s + row_s * (num_answers + num_drafted), num_answers + num_drafted)
    pace.expect(num_answers, 10)
    pace.took(9.0, num_answers + 10 + 3)  # beside prompts it tells nothing
    assert pace.fixed_rows == pytest.approx(max(fixed_s / row_s, 1.0))


def test_drafts_that_cost_nothing_are_no_reason_for_any_number_of_them() -> None:
    pace = Pace()
    pace.learn(1, 0, 0.1)
    pace.expect(1, 0)
    pace.took(0.05, 9)
    assert pace.fixed_rows == MOST_FIXED_ROWS
