"""The vocabulary inside a sentencepiece `tokenizer.model`, for folders without a tokenizer.json.

The file is one protobuf message, of which we need six fields: too few to depend on the
sentencepiece package. Source of names and numbers:
https://github.com/google/sentencepiece/blob/v0.2.0/src/sentencepiece_model.proto
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import DecodeError

from llamastream.errors import ModelError, reading
from llamastream.models.tokenizer_document import Added
from llamastream.models.tokenizer_json import Piece, sentencepiece_json, unique_texts

BPE_MODEL = 2  # TrainerSpec.model_type
SCHEMA = """
name: "sentencepiece_model.proto" package: "llamastream.sentencepiece" syntax: "proto2"
message_type { name: "Piece"
  field { name: "piece" number: 1 type: TYPE_BYTES label: LABEL_OPTIONAL }
  field { name: "score" number: 2 type: TYPE_FLOAT label: LABEL_OPTIONAL }
  field { name: "type" number: 3 type: TYPE_INT32 label: LABEL_OPTIONAL default_value: "1" } }
message_type { name: "TrainerSpec"
  field { name: "model_type" number: 3 type: TYPE_INT32 label: LABEL_OPTIONAL default_value: "1" } }
message_type { name: "NormalizerSpec"
  field { name: "add_dummy_prefix" number: 3 type: TYPE_BOOL label: LABEL_OPTIONAL
          default_value: "true" } }
message_type { name: "Model"
  field { name: "pieces" number: 1 type: TYPE_MESSAGE label: LABEL_REPEATED type_name: "Piece" }
  field { name: "trainer" number: 2 type: TYPE_MESSAGE label: LABEL_OPTIONAL
          type_name: "TrainerSpec" }
  field { name: "normalizer" number: 3 type: TYPE_MESSAGE label: LABEL_OPTIONAL
          type_name: "NormalizerSpec" } }
"""


def convert(file: Path, added: Mapping[int, Added]) -> tuple[str, dict[int, str]]:
    """The tokenizer.json equal to `file`, and the bytes, in hex, that it cannot hold, by id.

    added: the texts of those that `file` keeps places for win. Raises ModelError for a file that is
    not a BPE model.
    """
    with reading(file):
        try:
            model = _message_type().FromString(file.read_bytes())
        except DecodeError as error:
            raise ModelError(f"{file} is not a sentencepiece BPE model: it is damaged.") from error
        if model.trainer.model_type != BPE_MODEL or not model.pieces:
            raise ModelError(
                f"{file} is not a sentencepiece BPE model. Put the model's tokenizer.json beside "
                "it."
            )
        pieces = [piece.piece.decode("utf-8", "surrogateescape") for piece in model.pieces]
        kinds = [piece.type for piece in model.pieces]
        for token_id, token in added.items():
            if token_id < len(pieces) and token.text not in pieces:
                pieces[token_id] = token.text
                kinds[token_id] = Piece.CONTROL if token.is_special else Piece.USER_DEFINED
        bos = pieces.index("<s>") if "<s>" in pieces else None
        texts = unique_texts(pieces, ())
        return sentencepiece_json(
            texts.unique,
            [piece.score for piece in model.pieces],
            kinds,
            bos_id=bos,
            add_space_prefix=model.normalizer.add_dummy_prefix,
        ), texts.odd


def _message_type() -> Any:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(SCHEMA, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(
        pool.FindMessageTypeByName("llamastream.sentencepiece.Model")
    )
