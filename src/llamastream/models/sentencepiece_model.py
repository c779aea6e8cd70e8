"""The vocabulary inside a sentencepiece `tokenizer.model`, for folders without a tokenizer.json.

The file is one protobuf message, of which we need six fields: too few to depend on the
sentencepiece package. Source of names and numbers:
https://github.com/google/sentencepiece/blob/v0.2.0/src/sentencepiece_model.proto
"""

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import DecodeError

from llamastream.errors import ModelError
from llamastream.models.tokenizer_json import sentencepiece_json

BPE_MODEL = 2  # TrainerSpec.model_type
SCHEMA = """
name: "sentencepiece_model.proto" package: "llamastream.sentencepiece" syntax: "proto2"
message_type { name: "Piece"
  field { name: "piece" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
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


def convert(file: Path) -> str:
    """The tokenizer.json equal to `file`. Raises ModelError for one that is not a BPE model."""
    try:
        model = _message_type().FromString(file.read_bytes())
    except OSError as error:
        raise ModelError(f"Cannot read {file}: {error.strerror}.") from error
    except DecodeError as error:
        raise ModelError(f"{file} is not a sentencepiece BPE model: it is damaged.") from error
    if model.trainer.model_type != BPE_MODEL or not model.pieces:
        raise ModelError(
            f"{file} is not a sentencepiece BPE model. Put the model's tokenizer.json beside it."
        )
    pieces = [piece.piece for piece in model.pieces]
    return sentencepiece_json(
        pieces,
        [piece.score for piece in model.pieces],
        [piece.type for piece in model.pieces],
        bos_id=pieces.index("<s>") if "<s>" in pieces else None,
        add_space_prefix=model.normalizer.add_dummy_prefix,
    )


def _message_type() -> Any:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(SCHEMA, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(
        pool.FindMessageTypeByName("llamastream.sentencepiece.Model")
    )
