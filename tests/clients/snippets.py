"""What docs/tools.md tells people to write."""

import re
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs/tools.md"
BLOCK = re.compile(r"^```(?:console|python|toml)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def snippet(word: str) -> str:
    """The one block that has this word."""
    (found,) = [text for text in BLOCK.findall(DOCUMENT.read_text()) if word in text]
    return found
