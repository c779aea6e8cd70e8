"""What is sent to `vllm serve`, and what comes back: token ids both ways. Knows no connection.

Two forms of the same: `/inference/v1/generate`, which sends no text at all, and `/v1/completions`
for servers that do not offer it. Source: vLLM 0.32, vllm/entrypoints/scale_out/token_in_token_out/
and vllm/entrypoints/openai/completion/.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Annotated, NamedTuple

import orjson
from pydantic import AliasChoices, BaseModel, BeforeValidator, Field

from llamastream.engine.sequence import Sequence
from llamastream.errors import InvalidRequest
from llamastream.sampling import MAX_LOGPROBS
from llamastream.types import GenerationRequest

GENERATE, COMPLETIONS = "/inference/v1/generate", "/v1/completions"
MAX_SEED = 2**63 - 1  # its seeds are signed
MOST_LOGPROBS = MAX_LOGPROBS - 1  # one more is asked for than is shown, and it gives 20 at most
UNKNOWN = -9999.0  # what it writes for a log-probability that it does not have


class Drawn(NamedTuple):
    """A token as it was drawn there; logprob and alternatives where they were asked for."""

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()  # most likely first


class BadAnswer(Exception):
    """It says that it failed, with an HTTP status, or sends what this module does not know."""

    def __init__(self, message: str, status: int = 500) -> None:
        super().__init__(message)
        self.status = status


def check(request: GenerationRequest) -> None:
    """Raises InvalidRequest for what vLLM does not do as we do it."""
    asked = request.sampling.logprobs
    if request.grammar is not None:
        name, what = request.grammar.param, "Nothing makes answers keep to our grammars on"
    elif request.prompt_logprobs is not None:
        name, what = "prompt_logprobs", "Log-probabilities of the prompt are not streamed by"
    elif asked is not None and asked > MOST_LOGPROBS:
        raise InvalidRequest(
            f"logprobs must be <= {MOST_LOGPROBS} with --engine-url. Given: {asked}.",
            param="logprobs",
        )
    else:
        return
    raise InvalidRequest(
        f"{what} the engines of --engine-url. Leave {name} out, or ask a server that computes the "
        "model itself.",
        param=name,
    )


def may_go_on(seq: Sequence) -> bool:
    """Whether what was begun can be gone on with as if it had not stopped. There, outputs that are
    sent again are prompt, which these penalties do not count."""
    sampling = seq.sampling
    return not (seq.num_output_tokens and (sampling.presence_penalty or sampling.frequency_penalty))


def body(seq: Sequence, path: str, model: str) -> bytes:
    """Asks for what follows all tokens of `seq`."""
    token_ids = seq.token_ids[: seq.num_tokens].tolist()
    fields: dict[str, object] = {"model": model, "stream": True}
    if seq.cache_salt:  # vLLM takes a text without some characters, and need not know whose it is
        fields |= {"cache_salt": hashlib.sha256(seq.cache_salt).hexdigest()}
    if path == GENERATE:
        sampling = _sampling(seq) | {"detokenize": False}
        fields |= {"token_ids": token_ids, "sampling_params": sampling}
    else:
        fields |= _sampling(seq) | {"prompt": token_ids, "return_token_ids": True}
        if seq.sampling.logprobs is not None:  # ids in place of texts among these, too
            fields |= {"return_tokens_as_token_ids": True}
    return orjson.dumps(fields)


def _sampling(seq: Sequence) -> dict[str, object]:
    """Under vLLM's names, which are the same on both paths.

    All that ends an answer is sent with it: `ignore_eos` keeps vLLM from adding the model's own.
    """
    sampling, asked = seq.sampling, seq.sampling.logprobs
    fields = {
        "max_tokens": seq.max_num_tokens - seq.num_tokens,
        "min_tokens": max(sampling.min_tokens - seq.num_output_tokens, 0),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "logit_bias": {str(token_id): bias for token_id, bias in sampling.logit_bias} or None,
        "allowed_token_ids": sampling.allowed_token_ids,
        "seed": seq.seed & MAX_SEED,
        "stop_token_ids": sorted(sampling.stop_token_ids),
        "ignore_eos": True,
        # The token that was drawn comes first, and would take the place of the last alternative.
        "logprobs": asked + 1 if asked else asked,
    }
    return {name: value for name, value in fields.items() if value is not None}


def read(data: str) -> list[Drawn]:
    """The tokens of one event. Raises BadAnswer, and ValueError for another shape."""
    chunk = _Chunk.model_validate_json(data)
    if chunk.error is not None:
        code = chunk.error.code
        raise BadAnswer(chunk.error.message, code if isinstance(code, int) else 500)
    if not chunk.choices:
        return []
    choice = chunk.choices[0]
    if choice.token_ids is None:
        raise BadAnswer("it sends no token_ids, for which vLLM 0.10.2 or later is needed")
    if choice.logprobs is None:
        return [Drawn(token_id) for token_id in choice.token_ids]
    return list(_with_logprobs(choice.token_ids, choice.logprobs))


def refusal(status: int, data: bytes) -> BadAnswer:
    """What an answer with the status of an error says, or its beginning if it has another shape."""
    try:
        return BadAnswer(_Refusal.model_validate_json(data).error.message, status)
    except ValueError:
        return BadAnswer(data[:200].decode(errors="replace"), status)


def _id_of(token: object) -> object:
    """17, also of `token_id:17`."""
    return token.removeprefix("token_id:") if isinstance(token, str) else token


TokenId = Annotated[int, BeforeValidator(_id_of)]


class _Alternative(BaseModel):
    token_id: Annotated[TokenId, Field(validation_alias=AliasChoices("token_id", "token"))]
    logprob: float = UNKNOWN


class _Entry(_Alternative):
    top_logprobs: list[_Alternative] = []


class _Logprobs(BaseModel):
    """`content` on the one path, the lists on the other."""

    content: list[_Entry] | None = None
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[TokenId, float] | None] = []


class _Choice(BaseModel):
    token_ids: list[int] | None = None
    logprobs: _Logprobs | None = None


class _Message(BaseModel):
    message: str


class _Error(_Message):
    code: int | str | None = None


class _Chunk(BaseModel):
    choices: list[_Choice] = []
    error: _Error | None = None


class _Refusal(BaseModel):
    error: _Message


def _with_logprobs(token_ids: list[int], found: _Logprobs) -> Iterator[Drawn]:
    if found.content is not None:
        for token_id, entry in zip(token_ids, found.content, strict=True):
            top = ((other.token_id, other.logprob) for other in entry.top_logprobs)
            yield Drawn(token_id, entry.logprob, _likeliest_first(top))
        return
    rows = zip(token_ids, found.token_logprobs, found.top_logprobs, strict=True)
    for token_id, logprob, others in rows:
        likeliest = _likeliest_first((others or {}).items())
        yield Drawn(token_id, UNKNOWN if logprob is None else logprob, likeliest)


def _likeliest_first(top: Iterable[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    return tuple(sorted(top, key=lambda pair: -pair[1]))
