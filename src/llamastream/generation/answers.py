"""The door of this layer: a checked request becomes an answer that can be read.

An answer that nobody keeps is shown as it is drawn, and ends when its last reader leaves. What is
to be stored goes on to `StoredAnswers`. Knows no wire format.
"""

import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from llamastream.errors import ChatError, InternalError
from llamastream.generation.calling import call_rules, check_results, spec_of
from llamastream.generation.choice import Choice, TextRules
from llamastream.generation.dispatch import Dispatcher
from llamastream.generation.engine import Engine
from llamastream.generation.generation import (
    STATUSES,
    Details,
    End,
    Generation,
    Json,
    State,
)
from llamastream.generation.grammars import Compiling
from llamastream.generation.prefixes import DiskCache
from llamastream.generation.prompts import Prompting
from llamastream.generation.quotas import Quotas
from llamastream.generation.receipts import digest_of
from llamastream.keys import Keys
from llamastream.records import CacheRetention, IdempotencyKey, Item
from llamastream.sampling import MAX_SEED, SamplingParams
from llamastream.text import FittedPrompt, PromptBuilder, Tokenizer
from llamastream.tools import CallRules
from llamastream.types import (
    ChatRequest,
    EngineState,
    EngineStatus,
    GenerationRequest,
)

if TYPE_CHECKING:
    from llamastream.grammar import AnyGrammar

DEFAULT_SAMPLING = SamplingParams()
CHOICE_SEED_STEP = 0x9E3779B97F4A7C15  # docs/sampling.md: choice i draws with seed + i * this


@dataclass(frozen=True, slots=True)
class NewAnswer:
    """What a request is to be answered as: `wire` is its format's own, kept with the answer."""

    id: str
    wire: Json = field(default_factory=dict)
    store: bool = False
    input_items: tuple[Item, ...] = ()
    conversation_id: str | None = None
    after: str | None = None  # what it follows in the conversation, see Item
    previous_response_id: str | None = None
    background: bool = False
    shows_prompt_ids: bool = False
    idempotency: IdempotencyKey | None = None
    cache_retention: CacheRetention | None = None


class Ephemeral:
    """The keeper of answers that nobody keeps."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def drawn(self, generations: Iterable[Generation]) -> None:
        for generation in generations:
            generation.publish(len(generation.log))

    def ended(self, generation: Generation) -> None:
        reason = generation.choices[0].finish_reason
        assert reason is not None
        end = End(STATUSES[reason], generation.usage(), time.time(), None, generation.warnings())
        generation.finish(end)
        self._dispatcher.report(generation)

    def failed(self, generation: Generation, error: ChatError) -> None:
        generation.state = State.ENDED
        generation.publish(len(generation.log))
        generation.fail(error)
        self._dispatcher.report(generation)

    def readers_changed(self, generation: Generation, change: int) -> None:
        if not generation.num_readers and generation.state is State.RUNNING:
            generation.is_cancelled = True
            self._dispatcher.cancel(generation)


class Answers:
    """Belongs to one event loop. Owns the engine: starts it and stops it."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        prompts: PromptBuilder,
        *,
        model_name: str,
        model_id: str = "",
        sampling: SamplingParams = DEFAULT_SAMPLING,
        quotas: Quotas | None = None,
        disk: DiskCache | None = None,
    ) -> None:
        """`model_id` changes with whatever changes an answer: weights, tokenizer, precision.
        `sampling` holds the model's own defaults, for what a request leaves out. `disk`: where the
        engine keeps what it computed for stored answers.
        """
        self.details: Mapping[str, str | int | None] = {}  # what is told of the model
        self.model_name = model_name
        self.model_id = model_id
        self.sampling = sampling
        self.disk = disk
        self.tokenizer = tokenizer
        self.prompting = Prompting(tokenizer, prompts)
        self.grammars = Compiling(tokenizer, lambda: self.status().vocab_size)
        self.quotas = quotas or Quotas(Keys())
        self.dispatcher = Dispatcher(engine, self.quotas)
        self.metrics = self.dispatcher.metrics
        self._ephemeral = Ephemeral(self.dispatcher)

    async def start(self) -> None:
        """Start the engine, which then loads. Idempotent."""
        self.dispatcher.start()

    async def stop(self) -> None:
        """Stop the engine and fail the answers that are open."""
        self.prompting.close()
        self.grammars.close()
        await self.dispatcher.stop()

    def status(self) -> EngineStatus:
        return self.dispatcher.engine.status()

    def check_ready(self) -> EngineStatus:
        """The engine's limits. Raises EngineDead unless a request may be opened."""
        return self.dispatcher.check_ready()

    @property
    def is_draining(self) -> bool:
        """True once the server is stopping: what is open goes on, nothing new is opened."""
        return self.dispatcher.is_draining

    def drain(self) -> None:
        """Refuse new requests from here on."""
        self.dispatcher.is_draining = True

    def is_ready(self) -> bool:
        """Whether `open` takes requests now."""
        return self.status().state is EngineState.READY and not self.is_draining

    @property
    def num_open(self) -> int:
        """Engine requests whose end has not been seen yet."""
        return len(self.dispatcher)

    async def open(self, request: ChatRequest, new: NewAnswer) -> Generation:
        """Admit a request with all its choices, or none. It runs until its last reader leaves.

        Raises InvalidRequest, ContextLengthExceeded, Overloaded or EngineDead.
        """
        self.check_room(request.scope, request.num_choices)
        fitted = [await self.fit(replace(request, prompt=prompt)) for prompt in request.prompts]
        generation = await self.make(request, new, fitted)
        self.submit(generation)
        return generation

    def submit(self, generation: Generation) -> None:
        """Give it to the engine. Raises what that refuses it with."""
        try:
            self.dispatcher.submit(generation)
        except Exception as error:
            self.count_refusal(error)
            raise

    def check_room(self, scope: str, count: int = 1) -> None:
        """Raises Overloaded or RateLimited before anything was done for a request that they will
        refuse: refusals must not cost the others their turns."""
        try:
            self.dispatcher.engine.check_room(scope, count)
        except ChatError as error:
            self.count_refusal(error)
            raise

    async def fit(self, request: ChatRequest) -> FittedPrompt:
        """The prompt's ids. Raises as `open` does, but for Overloaded."""
        check_results(request)
        fitted = await self.prompting.fit(request, self.check_ready())
        num_dropped = fitted.num_dropped_turns + request.num_unread_turns
        return fitted._replace(num_dropped_turns=num_dropped)

    async def make(
        self, request: ChatRequest, new: NewAnswer, fitted: Sequence[FittedPrompt]
    ) -> Generation:
        """An answer that the engine has not heard of. Raises InvalidRequest and Overloaded."""
        first = fitted[0]
        if request.cuts_max_tokens:
            request = _cut(request, self.status().max_model_len - len(first.ids))
        calls = call_rules(request, self.prompting.tool_format)
        spec = spec_of(request, calls)
        rules = [self._rules(request, prompt.ids, calls) for prompt in fitted]
        grammars = await self.grammars.of_request(request, spec, rules)
        details = Details(
            wire=new.wire,
            rules=rules[0],
            background=new.background,
            num_dropped_turns=first.num_dropped_turns,  # a chat is one prompt
            model_id=self.model_id,
            prompt_token_ids=tuple(first.ids) if new.shows_prompt_ids else None,
            after=new.after,
            has_input=bool(new.input_items),
            grammar=self.grammars.recorded(spec),
            prompt_sha256=digest_of(first.ids) if new.store else None,
            cache_retention=new.cache_retention,
        )
        given = request.sampling.seed
        seeds = [secrets.randbits(64) if given is None else given for _ in fitted]
        choices = [
            Choice(
                p * request.n + i,
                self.tokenizer,
                rules[p],
                _asked(
                    request,
                    new.id,
                    tuple(prompt.ids),
                    rules[p],
                    grammars[p],
                    p * request.n + i,
                    seeds[p],
                ),
                new.id,
            )
            for p, prompt in enumerate(fitted)
            for i in range(request.n)
        ]
        generation = Generation(
            new.id,
            details,
            choices,
            self._ephemeral,
            created_at=time.time(),
            label=request.label,
            choices_per_prompt=request.n,
        )
        generation.scope, generation.is_stored = request.scope, new.store
        generation.grammar = grammars[0]
        generation.conversation_id = new.conversation_id
        generation.previous_response_id = new.previous_response_id
        return generation

    def _rules(
        self, request: ChatRequest, ids: Sequence[int], calls: CallRules | None
    ) -> TextRules:
        """Of answers to one prompt."""
        start = self.prompting.reasoning(request, ids)
        return TextRules.of(request, ids, self.tokenizer, start, calls)

    def count_refusal(self, error: Exception) -> None:
        outcome = error.code if isinstance(error, ChatError) else InternalError.code
        self.metrics.requests.labels(outcome).inc()


def _cut(request: ChatRequest, room: int) -> ChatRequest:
    """With no more tokens of an answer than there is room for."""
    most = request.sampling.max_tokens
    if most is None or most <= room:
        return request
    return replace(request, sampling=replace(request.sampling, max_tokens=room))


def _asked(
    request: ChatRequest,
    id: str,
    prompt_ids: tuple[int, ...],
    rules: TextRules,
    grammar: "AnyGrammar | None",
    index: int,
    seed: int,
) -> GenerationRequest:
    """One choice's. It draws what it would with its prompt alone."""
    return GenerationRequest(
        request_id=f"{id}-{index}" if request.num_choices > 1 else id,
        prompt_ids=prompt_ids,
        sampling=_for_choice(request.sampling, seed, index % request.n, rules.stop_token_ids),
        cache_salt=request.scope.encode(),
        scope=request.scope,
        prompt_logprobs=request.prompt_logprobs,
        grammar=grammar,
    )


def _for_choice(
    sampling: SamplingParams, seed: int, index: int, stop_token_ids: frozenset[int]
) -> SamplingParams:
    """`sampling` with one choice's own seed."""
    seed = (seed + index * CHOICE_SEED_STEP) & MAX_SEED
    return replace(sampling, seed=seed, stop_token_ids=stop_token_ids)
