"""A model's name to its files, its LlamaConfig, its tokenizer and its tensors.

Knows no engine and no text. Nothing is executed from a checkpoint: no pickle, no remote code.
"""

from llamastream.models.checkpoint import Checkpoint, Progress, TensorEntry
from llamastream.models.opening import list_local, open_checkpoint

__all__ = [
    "Checkpoint",
    "Progress",
    "TensorEntry",
    "list_local",
    "open_checkpoint",
]
