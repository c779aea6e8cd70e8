"""Drives an LLMEngine in tests: requests from short arguments, and what came out per request."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from llamastream.engine.llm_engine import LLMEngine
from llamastream.sampling import SamplingParams
from llamastream.types import (
    Event,
    Failed,
    Finished,
    GenerationRequest,
    Grammar,
    PromptTokens,
    Token,
)


def make_request(
    request_id: str,
    prompt_ids: Sequence[int],
    *,
    output_ids: Sequence[int] = (),
    cache_salt: bytes = b"",
    scope: str = "",
    prompt_logprobs: int | None = None,
    seed: int | None = 7,
    grammar: Grammar | None = None,
    **sampling: object,
) -> GenerationRequest:
    params = SamplingParams(seed=seed, **sampling)  # type: ignore[arg-type]
    return GenerationRequest(
        request_id, prompt_ids, params, output_ids, cache_salt, scope, grammar, prompt_logprobs
    )


@dataclass
class Outcome:
    """All events of one request, checked for order as they come."""

    tokens: list[Token] = field(default_factory=list)
    prompt: list[Token] = field(default_factory=list)
    end: Finished | Failed | None = None

    @property
    def token_ids(self) -> list[int]:
        return [token.token_id for token in self.tokens]

    def add(self, event: Event) -> None:
        assert self.end is None, f"{event} follows the end"
        if isinstance(event, Token):
            if self.tokens:
                assert event.position == self.tokens[-1].position + 1
            self.tokens.append(event)
        elif isinstance(event, PromptTokens):
            assert not self.tokens, f"{event} follows the answer's first token"
            self.prompt += event.tokens
        elif isinstance(event, Finished):
            assert event.queue_s is None or event.queue_s >= 0
            self.end = event._replace(queue_s=None)  # the one thing that differs from run to run
        else:
            self.end = event


def sort_events(events: Iterable[Event], outcomes: dict[str, Outcome]) -> None:
    for event in events:
        outcomes[event.request_id].add(event)


def run_all(
    engine: LLMEngine,
    requests: Iterable[GenerationRequest] = (),
    *,
    outcomes: dict[str, Outcome] | None = None,
    max_steps: int = 10_000,
) -> dict[str, Outcome]:
    """Add `requests`, step until nothing is left, check integrity after every step.

    Adds to `outcomes` of earlier steps, if there were any.
    """
    outcomes = defaultdict(Outcome) if outcomes is None else outcomes
    for request in requests:
        engine.add(request)
    for _ in range(max_steps):
        if not engine.has_work:
            break
        sort_events(engine.step(), outcomes)
        engine.check_integrity()
    assert not engine.has_work, "the engine does not come to an end"
    while engine._spill.is_reading:  # for one that has ended: its blocks come back then
        engine.step()
    status = engine.status()
    assert status.num_free_blocks == status.num_blocks and not status.num_running
    assert all(outcome.end is not None for outcome in outcomes.values())
    return outcomes
