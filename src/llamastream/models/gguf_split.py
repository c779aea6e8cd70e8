"""How the files of a split GGUF model are called, as llama.cpp's gguf-split calls them.

Any of them may be given: its name tells those of the others. Source: llama.cpp, llama_split_path.
"""

import re
from pathlib import Path

_NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)
MAX_PARTS = 1000  # a name may state any number


def part_files(file: Path) -> list[Path]:
    """All files of the model that `file`, by its name, is a part of; or `file` alone."""
    match = _NAME.fullmatch(file.name)
    count = int(match[3]) if match else 0
    if match is None or not 1 <= int(match[2]) <= count <= MAX_PARTS:
        return [file]
    return [file.with_name(f"{match[1]}-{n:05}-of-{count:05}.gguf") for n in range(1, count + 1)]


def part_index(file: Path) -> int:
    """The place of `file` among its `part_files`."""
    files = part_files(file)
    return files.index(file)


def model_name(file: Path) -> str:
    match = _NAME.fullmatch(file.name)
    return match[1] if match and len(part_files(file)) > 1 else file.stem
