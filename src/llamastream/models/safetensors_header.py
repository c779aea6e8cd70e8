"""Where each tensor of a safetensors file lies.

The `safetensors` package reads and checks the header. The numbers are read by us: its NumPy front
end refuses BF16, the most common type of published Llama checkpoints.
"""

import math
from pathlib import Path

from safetensors import safe_open

from llamastream.errors import ModelError, reading
from llamastream.models.checkpoint import TensorEntry

ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I32": 4}
FLOATS = ("F32", "F16", "BF16")


def read_entries(file: Path, *, may_hold_codes: bool = False) -> list[TensorEntry]:
    """The tensors of `file`, in the order of their data: floats, and integers of quantised ones.

    Raises ModelError for a damaged file and for other types.
    """
    types = [*FLOATS, *(["I32"] if may_hold_codes else [])]
    entries: list[TensorEntry] = []
    with reading(file):
        with file.open("rb") as stream:
            offset = 8 + int.from_bytes(stream.read(8), "little")  # of the data, after the header
        with safe_open(file, "np") as header:
            for name in header.offset_keys():  # the data has no gaps: the package checks that
                part = header.get_slice(name)
                dtype, shape = part.get_dtype(), tuple(part.get_shape())
                if dtype not in types:
                    raise ModelError(
                        f"{file}: tensor {name!r} has type {dtype}. Supported: "
                        f"{', '.join(types)}. Choose the checkpoint's unquantised version, or "
                        "a GGUF file."
                    )
                size = math.prod(shape) * ITEM_BYTES[dtype]
                entries.append(TensorEntry(name, dtype, shape, file, offset, size))
                offset += size
    return entries
