"""The folder of packed weights: what the first start of a model leaves for the later ones.

Knows files, their sizes and when they were last used. An image that a server has mapped may go at
any time: the server keeps it until it ends.
"""

import logging
import os
import re
import time
from pathlib import Path
from typing import NamedTuple

logger = logging.getLogger(__name__)

FOLDER = "packed"
SUFFIX = ".bin"
STALE_S = 86_400.0  # a half-written image that nobody has touched for so long is nobody's


class PackedImage(NamedTuple):
    """`used_s`: seconds since the epoch at which a model was last started from it."""

    path: Path
    num_bytes: int
    used_s: float

    @property
    def name(self) -> str:
        return self.path.name.removesuffix(SUFFIX)


def image_path(data_dir: Path, model: str, fingerprint: str, dtype: str) -> Path:
    """Where the packed weights of a model lie, or will: one file for its content and dtype.

    The model's name is there for people: under another name the same file is found again.
    """
    end = f"-{fingerprint[:16]}-{dtype}{SUFFIX}"
    found = next((data_dir / FOLDER).glob(f"*{end}"), None)
    readable = re.sub(r"[^\w.]+", "-", model).strip("-.")[:60] or "model"
    return found or data_dir / FOLDER / f"{readable}{end}"


def list_images(data_dir: Path) -> list[PackedImage]:
    """Those that are here, the one used last first."""
    images = []
    for path in (data_dir / FOLDER).glob(f"*{SUFFIX}"):
        try:
            stat = path.stat()
        except OSError:  # removed meanwhile
            continue
        images.append(PackedImage(path, stat.st_size, stat.st_mtime))
    return sorted(images, key=lambda image: image.used_s, reverse=True)


def mark_used(path: Path) -> None:
    """Note that a model was started from it now. The folder may be read-only."""
    try:
        os.utime(path)
    except OSError:
        logger.debug("cannot note that %s was used", path)


def trim(data_dir: Path, max_bytes: int | None, *, keep: Path) -> list[PackedImage]:
    """Remove images until they hold `max_bytes` at most: unused longest first, and never `keep`.

    Returns those removed. Half-written ones of starts that did not end go too.
    """
    for path in (data_dir / FOLDER).glob(f"*{SUFFIX}.*.tmp"):
        if time.time() - path.stat().st_mtime > STALE_S:
            path.unlink(missing_ok=True)
    images = list_images(data_dir)
    total = sum(image.num_bytes for image in images)
    removed = []
    for image in reversed(images):
        if max_bytes is None or total <= max_bytes:
            break
        if image.path != keep:
            image.path.unlink(missing_ok=True)
            total -= image.num_bytes
            removed.append(image)
            logger.info("removed packed weights %s bytes=%d", image.path, image.num_bytes)
    return removed
