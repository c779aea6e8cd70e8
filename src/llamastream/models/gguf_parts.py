"""The headers of a GGUF model in one file or in several.

Of several the first holds the keys, each some of the tensors.
"""

from pathlib import Path

from llamastream.errors import ModelError
from llamastream.models.fields import Fields
from llamastream.models.gguf_reader import GGUFHeader, read_gguf
from llamastream.models.gguf_split import part_files


def read_parts(file: Path) -> list[tuple[Path, GGUFHeader]]:
    """The headers of a model's files, the one with the keys first. Raises ModelError for one that
    is missing or does not belong to the others."""
    header = read_gguf(file)
    count = _split(file, header).integer("split.count", 1, least=0)
    if count <= 1:
        return [(file, header)]
    files = part_files(file)
    if len(files) != count:
        raise ModelError(
            f"{file} is one of {count} parts of a model, and must be named as llama-gguf-split "
            f"does it: NAME-00001-of-{count:05}.gguf. Name all so, or join them: "
            "llama-gguf-split --merge."
        )
    missing = [part for part in files if not part.is_file()]
    if missing:
        more = f" and {len(missing) - 1} more parts are" if len(missing) > 1 else " is"
        raise ModelError(f"{file} is one of {count} parts: {missing[0]}{more} missing.")
    parts = [(part, header if part == file else read_gguf(part)) for part in files]
    for index, (part, found) in enumerate(parts):
        fields = _split(part, found)
        for key, number in (("split.count", count), ("split.no", index)):
            if (value := fields.integer(key, 0, least=0)) != number:
                raise fields.error(key, f"{number}, as its name says", value)
    fields = _split(*parts[0])
    total = sum(len(found.tensors) for _, found in parts)
    if (stated := fields.integer("split.tensors.count", total, least=0)) != total:
        raise fields.error("split.tensors.count", f"{total}, as all parts hold", stated)
    return parts


def _split(file: Path, header: GGUFHeader) -> Fields:
    return Fields(file, header.metadata.get)
