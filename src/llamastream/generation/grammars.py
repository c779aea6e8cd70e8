"""What answers must keep to, compiled off the event loop and key by key, once for all who ask.

The parser is loaded with the first grammar: a server that is asked for none starts without it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from llamastream.errors import InvalidRequest
from llamastream.generation.choice import TextRules
from llamastream.generation.pool import FairPool
from llamastream.text import REASONING_TAGS, Tokenizer
from llamastream.types import ChatRequest, GrammarKind, GrammarSpec, ReasoningStart

if TYPE_CHECKING:
    from llamastream.grammar import AnyGrammar, Grammars, Tags, Vocabulary


@dataclass(frozen=True, slots=True)
class GrammarRecord:
    """All that another server needs to go on with an answer."""

    kind: str
    text: str
    strict: bool
    param: str
    version: str  # of what compiled it

    @property
    def spec(self) -> GrammarSpec:
        return GrammarSpec(GrammarKind(self.kind), self.text, self.strict, self.param)


class Compiling:
    """Belongs to one event loop."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: Callable[[], int]) -> None:
        """`vocab_size`: of the model, once it is loaded."""
        self._tokenizer, self._vocab_size = tokenizer, vocab_size
        self._pool = FairPool("grammars")
        self._grammars: Grammars | None = None
        self._tags: Tags | None = None

    def close(self) -> None:
        self._pool.close()

    async def of_request(
        self, request: ChatRequest, spec: GrammarSpec | None, rules: Sequence[TextRules]
    ) -> "list[AnyGrammar | None]":
        """A grammar for each prompt. rules: of each. Raises InvalidRequest and Overloaded."""
        if spec is not None:
            _check(request, spec)
        return [await self._of_prompt(request, spec, of) for of in rules]

    def of_record(self, record: GrammarRecord | None, rules: TextRules) -> "AnyGrammar | None":
        """Of an answer to go on with."""
        if record is None:
            return None
        later = self._loaded().later(record.spec, _has_prefix(rules), record.version)
        return self._behind_reasoning(later, rules, None, record.param)

    def recorded(self, spec: GrammarSpec | None) -> GrammarRecord | None:
        """Once it is compiled here."""
        if spec is None:
            return None
        version = import_module("llamastream.grammar").version_of(spec.kind)
        return GrammarRecord(spec.kind.value, spec.text, spec.strict, spec.param, version)

    async def _of_prompt(
        self, request: ChatRequest, spec: GrammarSpec | None, rules: TextRules
    ) -> "AnyGrammar | None":
        found: AnyGrammar | None = None
        if spec is not None:
            found = await self._compiled(spec, _has_prefix(rules), request.scope)
        param = "thinking.budget_tokens" if spec is None else spec.param
        return self._behind_reasoning(found, rules, request.thinking_budget, param)

    def _behind_reasoning(
        self, grammar: "AnyGrammar | None", rules: TextRules, budget: int | None, param: str
    ) -> "AnyGrammar | None":
        """What holds for the answer alone, and how long the model may think before. Raises
        InvalidRequest for a vocabulary that cannot tell where that ends."""
        start = rules.reasoning
        if start in (None, ReasoningStart.CLOSED) or (grammar is None and budget is None):
            return grammar
        open, close = map(self._tokenizer.token_id, REASONING_TAGS)
        if open is None or close is None:
            if start is ReasoningStart.POSSIBLE and grammar is not None:
                return grammar  # it cannot be opened in tokens that the grammar refuses
            raise InvalidRequest(
                f"{param} needs a model whose vocabulary has a token for "
                f"{' and '.join(REASONING_TAGS)}, and this one's has none. Leave it out.",
                param=param,
            )
        module = import_module("llamastream.grammar")
        if self._tags is None:
            self._tags = module.Tags(open, close, lambda: self._loaded().vocabulary())
        reasoned: AnyGrammar = module.Reasoned(grammar, self._tags, start, budget)
        return reasoned

    async def _compiled(self, spec: GrammarSpec, has_prefix: bool, scope: str) -> "AnyGrammar":
        if self._grammars is not None:
            known = self._grammars.known(spec, has_prefix=has_prefix)
            if known is not None:
                return known
        return await self._pool.run(scope, lambda: self._loaded().compile(spec, has_prefix))

    def _loaded(self) -> "Grammars":
        if self._grammars is None:
            made: Grammars = import_module("llamastream.grammar").Grammars(self._vocabulary)
            self._grammars = self._grammars or made
        return self._grammars

    def _vocabulary(self) -> "Vocabulary":
        return vocabulary_of(self._tokenizer, self._vocab_size())


def _has_prefix(rules: TextRules) -> bool:
    """Whether the grammar's text is one of its own from the first token on."""
    return not rules.continues and rules.reasoning is not ReasoningStart.OPENED


def vocabulary_of(tokenizer: Tokenizer, size: int) -> "Vocabulary":
    """What a tokenizer's grammars are compiled for. size: of the model's vocabulary."""
    made: Vocabulary = import_module("llamastream.grammar").Vocabulary(
        tokenizer_json=tokenizer.config.tokenizer_json,
        size=size,
        num_tokens=tokenizer.num_tokens,
        token_bytes=tokenizer.token_bytes,
        special_ids=tokenizer.special_ids,
        stop_ids=tuple(tokenizer.eos_token_ids),
        strips_leading_space=tokenizer.rules.strip_leading_space,
        starts_with_space=tokenizer.has_prefix_space,
    )
    return made


def _check(request: ChatRequest, spec: GrammarSpec) -> None:
    """Raises InvalidRequest for what contradicts a grammar."""
    sampling = request.sampling
    for name, is_given in (
        ("min_tokens", sampling.min_tokens > 0),
        ("allowed_token_ids", sampling.allowed_token_ids is not None),
    ):
        if is_given:
            raise InvalidRequest(
                f"{name} and {spec.param} exclude each other: together they may leave nothing that "
                "could come next. Send one of them.",
                param=name,
            )
    if request.ignore_eos:
        raise InvalidRequest(
            f"ignore_eos and {spec.param} exclude each other: where the grammar ends, the answer "
            "does. Send one of them.",
            param="ignore_eos",
        )
    if request.prompt_options.continues:
        raise InvalidRequest(
            f"continue_final_message and {spec.param} exclude each other: what is there already is "
            "not part of the grammar. Send one of them.",
            param="continue_final_message",
        )
