"""Drafts: where they come from, when they pay, and that no token ever depends on one."""

from random import Random

import numpy as np
import pytest
from driver import Outcome, make_request, run_all
from fake_runner import FakeRunner, expected_tokens
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from make_runners import RUNNERS, MakeRunner
from test_block_manager import manager, sequence
from test_llm_engine_properties import (
    VOCAB_SIZE,
    alone,
    check_any_schedule,
    drawn,
    random_engine,
    random_request,
    small_runner,
)

from llamastream.config import EngineConfig
from llamastream.engine.block_manager import BlockManager
from llamastream.engine.drafting import KINDS, LONGEST, Drafting, find_match, kind_of
from llamastream.engine.llm_engine import LLMEngine
from llamastream.engine.runner import Int32
from llamastream.engine.scheduler import Scheduled
from llamastream.engine.sequence import Sequence
from llamastream.engine.speculation import MAX_DRAFT, MAX_SEQS, Speculation, Step
from llamastream.types import Finished, FinishReason


def ids(text: str) -> Int32:
    return np.array([ord(char) for char in text], np.int32)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a", (0, 0)),
        ("a", (0, 0)),
        ("abc", (0, 0)),
        ("abca", (1, 1)),
        ("abcXabdYab", (6, 2)),  # the latest of equals
        ("xabc1..abc2..yabc", (10, 3)),
        ("xyabc1..abc2..yabc", (5, 4)),  # the longest, though it is older
        ("0123456789-3456789", (10, 5)),  # 7 are the same; none looks further than 5
        ("aaaa", (3, 3)),
        ("aa", (1, 1)),
    ],
)
def test_a_match_is_the_longest_and_then_the_latest(text: str, match: tuple[int, int]) -> None:
    start, length = match
    assert find_match(ids("<!?>" + text)) == ((start + 4 if length else 0), length)


def test_what_ends_in_the_first_four_tokens_is_not_seen() -> None:
    assert [find_match(ids(text)) for text in ("a", "aa", "ababab", "abcdabcd")] == [
        (0, 0),
        (0, 0),
        (0, 0),
        (0, 0),
    ]
    assert find_match(ids("abababa")) == (5, 5)


@given(tokens=st.lists(st.integers(0, 2), min_size=1, max_size=40))
def test_what_is_matched_is_the_end_of_the_text(tokens: list[int]) -> None:
    start, length = find_match(np.array(tokens, np.int32))
    assert start < len(tokens) and 0 <= length <= min(start, LONGEST)
    assert tokens[start - length : start] == tokens[len(tokens) - length :]
    assert length or tokens[-1] not in tokens[LONGEST - 1 : -1]


def test_longer_matches_are_trusted_more() -> None:
    assert [kind_of(length) for length in (0, 1, 2, 4, 5, 9)] == [-1, 0, 1, 1, 2, 2]
    assert [odds for _, odds in KINDS] == sorted(odds for _, odds in KINDS)


def test_wrong_drafts_are_remembered_and_slowly_forgotten() -> None:
    drafting = Drafting(kind=2)
    for _ in range(20):
        drafting.learn(num_drafted=1, num_accepted=0)
    assert drafting.odds[2] < 0.1 and drafting.odds[:2] == Drafting().odds[:2]
    for _ in range(200):
        drafting.recover()
    assert drafting.odds[2] == pytest.approx(Drafting().odds[2], abs=0.02)
    drafting.learn(num_drafted=15, num_accepted=15)
    assert drafting.odds[2] > 0.98
    before = drafting.odds[2]
    drafting.recover()
    assert drafting.odds[2] == before  # what was right is not forgotten


def test_a_draft_is_as_long_as_its_odds_and_the_load_allow() -> None:
    lengths = {
        num_seqs: [Step(num_seqs).take(odds, MAX_DRAFT) for odds in (0.1, 0.3, 0.6, 0.9, 1.0)]
        for num_seqs in (1, 4, 8)
    }
    assert lengths[1][0] == 0 and lengths[1][-1] == MAX_DRAFT
    assert all(row == sorted(row) for row in lengths.values())
    for fewer, more in zip(lengths[1], lengths[8], strict=True):
        assert more <= fewer
    assert lengths[8][2] <= 1 < lengths[1][2]
    assert Step(1).take(1.0, 3) == 3
    for odds in (0.1, 0.3, 0.6):  # the more a step costs anyway
        assert Step(1, 20.0).take(odds, MAX_DRAFT) > Step(1).take(odds, MAX_DRAFT)


def decoding(text: str, *, room: int = 40, odds: float = 1.0) -> Sequence:
    """All but its last token is computed, and drafts of every kind are right at `odds`."""
    seq = sequence(ids(text).tolist(), room=room)
    seq.drafting.odds = [odds] * len(KINDS)
    return seq


def extend(
    seqs: list[Sequence], *, num_spare: int = 100, keep_free: int = 0, **config: object
) -> list[str]:
    """The draft of each, where `num_spare` blocks are left over."""
    blocks = manager(num_blocks=sum(-(-seq.num_tokens // 4) for seq in seqs) + num_spare)
    for seq in seqs:
        blocks.allocate(seq)
        seq.num_computed_tokens = seq.num_tokens - 1
    speculation = Speculation(EngineConfig(**config))  # type: ignore[arg-type]
    scheduled = [Scheduled(seq, 1) for seq in seqs]
    extended = speculation.extend(scheduled, blocks, keep_free=keep_free)
    blocks.check_integrity(seqs)
    drafts = []
    for seq, num_tokens in extended:
        stop = seq.num_computed_tokens + num_tokens
        assert len(seq.block_table) * blocks.block_size >= stop
        drafts.append("".join(map(chr, seq.token_ids[seq.num_tokens : stop])))
    return drafts


def test_a_draft_goes_on_as_the_text_did_and_then_repeats_that() -> None:
    assert extend([decoding("<!?>Paris is Pari")]) == ["s is Paris is Pa"]


def test_nothing_is_drafted_without_a_match_or_when_it_would_not_pay() -> None:
    assert extend([decoding("<!?>abcdef")]) == [""]
    assert extend([decoding("<!?>abcabc", odds=0.1)]) == [""]
    assert extend([decoding("<!?>abcabc")], speculation="off") == [""]
    many = [decoding("<!?>abcabc") for _ in range(MAX_SEQS + 1)]
    assert extend(many) == [""] * len(many)
    assert extend(many[1:]) == ["ab"] * MAX_SEQS


def test_beside_others_a_text_without_a_match_is_looked_at_less_often() -> None:
    seqs = [decoding("<!?>abcdef"), decoding("<!?>abcabc"), decoding("<!?>uvwxyz")]
    assert [draft[:3] for draft in extend(seqs)] == ["", "abc", ""]
    assert [seq.drafting.pause for seq in seqs] == [2, 0, 2]
    step, speculation = Step(3), Speculation(EngineConfig())
    seqs[0].append(ord("a"))  # from here on it does repeat
    drafts = [len(speculation.propose(seqs[0], step, 4)) for _ in range(3)]
    assert drafts == [0, 0, 4]


def test_a_draft_ends_before_the_last_token_that_may_be_drawn() -> None:
    rooms = [0, 1, 2, 5]
    assert [extend([decoding("<!?>abcabc", room=room)])[0] for room in rooms[1:]] == [
        "",
        "a",
        "abca",
    ]


def test_drafts_take_the_budget_that_is_left() -> None:
    seqs = [decoding("<!?>abcabc"), decoding("<!?>xyzxyz")]
    assert extend(seqs, max_num_batched_tokens=2) == ["", ""]
    seqs = [decoding("<!?>abcabc"), decoding("<!?>xyzxyz")]
    assert extend(seqs, max_num_batched_tokens=13) == ["abcabcab", "xyz"]


def test_drafts_take_no_block_that_others_may_need() -> None:
    # 10 tokens lie in three blocks of 4: there is room for 2 drafts, and 4 in each further block.
    assert extend([decoding("<!?>abcabc")], num_spare=0) == ["ab"]
    assert extend([decoding("<!?>abcabc")], num_spare=3, keep_free=3) == ["ab"]
    assert extend([decoding("<!?>abcabc")], num_spare=3, keep_free=2) == ["abcabc"]


def test_a_prompt_under_way_is_not_drafted() -> None:
    seq, blocks = decoding("<!?>abcabcabcabc"), manager()
    blocks.allocate(seq)
    scheduled = [Scheduled(seq, 1)]  # one token of a prompt that a small budget cut
    extended = Speculation(EngineConfig()).extend(scheduled, blocks, keep_free=0)
    assert extended == scheduled


class Guessing(Speculation):
    """Drafts what will be drawn, or something else, as chance has it. Knows the answers."""

    def __init__(self, config: EngineConfig, rng: Random, answers: dict[str, list[int]]) -> None:
        super().__init__(config)
        self._rng, self._answers = rng, answers
        self._is_calm = False

    def extend(
        self, scheduled: list[Scheduled], blocks: BlockManager, *, keep_free: int
    ) -> list[Scheduled]:
        self._is_calm = self._rng.random() < 0.3  # then the next step may be begun at once
        return super().extend(scheduled, blocks, keep_free=keep_free)

    def may_draft(self, num_seqs: int) -> bool:
        return not self._is_calm and super().may_draft(num_seqs)

    def propose(self, seq: Sequence, step: Step, limit: int) -> Int32:
        rng, known = self._rng, self._answers[seq.request_id][seq.num_output_tokens :]
        count = min(rng.choice([0, 1, 2, 5, 9]), limit)
        guesses = [*known, *(rng.randrange(VOCAB_SIZE) for _ in range(count))][:count]
        if count and rng.random() < 0.4:
            guesses[rng.randrange(count)] = rng.randrange(VOCAB_SIZE)
        return np.array(guesses, np.int32)


# Stop tokens and the end of the answer lie within drafts, at block ends, before preemptions: the
# guesses go on behind both. The fixture holds no state.
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rng=st.randoms(use_true_random=True))
def test_no_draft_right_or_wrong_changes_a_token(make_runner: MakeRunner, rng: Random) -> None:
    requests = [random_request(rng, str(number)) for number in range(rng.randint(1, 6))]
    expected = {request.request_id: alone(make_runner, request) for request in requests}
    answers = {request_id: outcome.token_ids for request_id, outcome in expected.items()}
    engine = random_engine(
        make_runner, rng, lambda config: Guessing(config, Random(rng.random()), answers)
    )
    check_any_schedule(engine, rng, requests, expected)
    status = engine.status()
    assert 0 <= status.num_accepted_tokens <= status.num_drafted_tokens


def right_guesses(outcome: Outcome) -> Speculation:
    class Right(Speculation):
        def propose(self, seq: Sequence, step: Step, limit: int) -> Int32:
            known = outcome.token_ids[seq.num_output_tokens :][:limit]
            return np.array(known[:MAX_DRAFT], np.int32)

    return Right(EngineConfig())


@pytest.mark.parametrize("sampling", [{"temperature": 0.0}, {"temperature": 1.0, "seed": 3}])
def test_right_drafts_save_steps_and_are_counted(
    make_runner: MakeRunner, sampling: dict[str, float]
) -> None:
    request = make_request(
        "a", list(range(9)), max_tokens=35, logprobs=2, frequency_penalty=0.3, **sampling
    )
    expected = alone(make_runner, request)
    engine = LLMEngine(
        small_runner(make_runner, num_blocks=4),
        EngineConfig(),
        speculation=right_guesses(expected),
    )
    engine.add(request)
    num_steps, outcome = 0, Outcome()
    while engine.has_work:
        for event in engine.step():
            outcome.add(event)
        engine.check_integrity()
        num_steps += 1
    assert drawn(outcome) == drawn(expected)
    assert num_steps == 1 + 2  # the prompt; 17 tokens each
    status = engine.status()
    assert (status.num_drafted_tokens, status.num_accepted_tokens) == (32, 32)


def test_a_stop_token_inside_a_draft_ends_the_answer() -> None:
    request = make_request("a", [1, 2, 3], max_tokens=20)
    tokens = expected_tokens(request, max_model_len=128, vocab_size=97)
    stopped = make_request("a", [1, 2, 3], max_tokens=20, stop_token_ids=frozenset({tokens[4]}))
    guesses = Outcome()
    guesses.tokens = run_all(LLMEngine(FakeRunner(), EngineConfig()), [request])["a"].tokens
    engine = LLMEngine(FakeRunner(), EngineConfig(), speculation=right_guesses(guesses))
    outcome = run_all(engine, [stopped])["a"]
    assert outcome.token_ids == tokens[:5]
    assert outcome.end == Finished("a", FinishReason.STOP, 3, 0, 5)


class Wrong(Speculation):
    """Drafts as much as it may, and never what is drawn: FakeRunner hardly repeats itself."""

    def propose(self, seq: Sequence, step: Step, limit: int) -> Int32:
        return np.full(min(limit, MAX_DRAFT), seq.token_ids[seq.num_tokens - 1], np.int32)


@pytest.mark.parametrize("num_blocks", range(8, 24))
def test_drafts_preempt_nobody_and_delay_no_admission(num_blocks: int) -> None:
    """With drafts, a full cache has the schedule it has without."""
    requests = [make_request(str(i), [i + 1] * (9 + i), max_tokens=23 - 5 * i) for i in range(4)]

    def schedule(speculation: type[Speculation], mode: str) -> list[tuple[int, int]]:
        config = EngineConfig(max_num_seqs=3, speculation=mode)  # type: ignore[arg-type]
        runner = FakeRunner(num_blocks=num_blocks, block_size=4)
        engine = LLMEngine(runner, config, speculation=speculation(config))
        for request in requests:
            engine.add(request)
        steps = []
        while engine.has_work:
            engine.step()
            engine.check_integrity()
            steps.append((engine.status().num_running, engine.status().num_waiting))
        assert (engine.status().num_drafted_tokens > 0) is (mode == "auto")
        return steps

    assert schedule(Wrong, "auto") == schedule(Speculation, "off")


@pytest.mark.parametrize("kind", ["reference", "cpu-int8", "cpu-float32"])
def test_repeated_text_takes_fewer_steps(kind: str) -> None:
    """By itself, from the first token on: the bias makes every draw the same."""
    request = make_request("a", [3, 7, 7, 7, 7, 7], max_tokens=40, logit_bias=((7, 100.0),))
    make_runner, steps = RUNNERS[kind], {}
    for mode in ("auto", "off"):
        engine = LLMEngine(
            small_runner(make_runner, num_blocks=4),
            EngineConfig(speculation=mode),  # type: ignore[arg-type]
        )
        engine.add(request)
        steps[mode] = 0
        while engine.has_work:
            engine.step()
            steps[mode] += 1
    assert steps["off"] == 40 and steps["auto"] <= 8
