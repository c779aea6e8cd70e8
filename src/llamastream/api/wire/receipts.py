"""Receipts, and how the second computation of an answer came out, as JSON."""

import hashlib
from dataclasses import asdict
from typing import Any

import orjson

from llamastream.api.wire.format import Format
from llamastream.errors import ChatError
from llamastream.generation import Generation, Receipt, Verification
from llamastream.generation.receipts import digest_of
from llamastream.types import Delta


def receipt_json(receipt: Receipt) -> dict[str, Any]:
    grammar, sampling = receipt.grammar, receipt.sampling
    stop_ids = sorted(sampling.stop_token_ids)
    return {
        "object": "receipt",
        "id": receipt.response_id,
        "status": receipt.status,
        **receipt.computation._asdict(),
        "prompt": {"num_tokens": receipt.num_prompt_tokens, "sha256": receipt.prompt_sha256},
        "sampling": asdict(sampling) | {"stop_token_ids": stop_ids},
        "stop": receipt.stop,
        "grammar": grammar
        and {
            "kind": grammar.kind,
            "sha256": hashlib.sha256(grammar.text.encode()).hexdigest(),
            "version": grammar.version,
        },
        "choices": [
            {
                "index": 0,
                "num_tokens": len(receipt.token_ids),
                "sha256": digest_of(receipt.token_ids),
            }
        ],
    }


class VerificationFormat(Format):
    """Never streamed."""

    def __init__(self, verification: Verification) -> None:
        self._verification = verification

    def frames(self, delta: Delta) -> list[bytes]:
        return []

    def closing(self, generation: Generation) -> list[bytes]:
        return []

    def error(self, error: ChatError) -> bytes:
        return b""

    def whole(self, generation: Generation) -> bytes:
        found = self._verification
        return orjson.dumps(
            {
                "object": "verification",
                "id": found.receipt.response_id,
                "is_equal": found.difference is None,
                "num_equal_tokens": found.num_equal,
                "difference": found.difference and found.difference._asdict(),
                "receipt": receipt_json(found.receipt),
            }
        )
