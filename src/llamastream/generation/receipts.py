"""What a stored answer was drawn from: all that a second computation needs, by digests where it is
long. The same receipt, the same tokens."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from llamastream.generation.generation import Details
from llamastream.generation.grammars import GrammarRecord
from llamastream.records import Recorded, Status
from llamastream.sampling import SamplingParams
from llamastream.store.damage import reading

ELSEWHERE = "vllm"  # in place of a precision: of an engine on other machines nothing is known


class Computation(NamedTuple):
    """Who draws: equal ones draw the same tokens, but for those of engines elsewhere."""

    weights: str  # digest, of the tokenizer too; of an engine elsewhere, of the tokenizer alone
    precision: str = ""
    arithmetic: str = ""  # version of the CPU's; "gpu"

    @property
    def model_id(self) -> str:
        return "-".join(filter(None, self))

    @classmethod
    def parse(cls, model_id: str) -> "Computation":
        return cls(*model_id.rsplit("-", 2))


@dataclass(frozen=True, slots=True)
class Receipt:
    response_id: str
    status: Status
    computation: Computation
    prompt_sha256: str | None  # None: of an older release, and the prompt is kept no more
    num_prompt_tokens: int | None
    sampling: SamplingParams
    stop: tuple[str, ...]
    grammar: GrammarRecord | None
    token_ids: tuple[int, ...]

    @classmethod
    def of(cls, recorded: Recorded) -> "Receipt":
        """Raises DamagedRecord."""
        record, prompt = recorded.response, recorded.prompt_ids
        with reading("response", record.id):
            details = Details.from_json(record.request)
        digest = details.prompt_sha256
        if digest is None and prompt is not None:
            digest = digest_of(prompt)
        return cls(
            response_id=record.id,
            status=record.status,
            computation=Computation.parse(details.model_id),
            prompt_sha256=digest,
            num_prompt_tokens=None if prompt is None else len(prompt),
            sampling=recorded.sampling,
            stop=details.rules.stop,
            grammar=details.grammar,
            token_ids=recorded.token_ids,
        )


def digest_of(ids: Sequence[int]) -> str:
    """SHA-256 over the ids, 4 bytes each, little-endian."""
    return hashlib.sha256(np.array(ids, "<u4").tobytes()).hexdigest()
