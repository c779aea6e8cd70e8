"""Which models are here."""

import logging
from pathlib import Path

from llamastream.errors import ModelError
from llamastream.weights.checkpoint import Checkpoint
from llamastream.weights.demo import demo_file
from llamastream.weights.folder import open_folder
from llamastream.weights.gguf_file import open_gguf
from llamastream.weights.hub_cache import list_fetched
from llamastream.weights.opening import DEMO

logger = logging.getLogger(__name__)


def list_local(cache_dir: Path) -> list[Checkpoint]:
    """The models fetched into `cache_dir`, by name. One that cannot be read is logged, not listed.

    Never reaches for the network.
    """
    demo = demo_file(cache_dir)
    found = [*([(DEMO, demo)] if demo.is_file() else []), *list_fetched(cache_dir)]
    models = []
    for name, path in found:
        try:
            if path.is_dir():
                models.append(open_folder(path, name=name))
            else:
                models.append(open_gguf(path, name=name, cache_dir=cache_dir))
        except ModelError as error:
            logger.warning("cannot read model %s: %s", name, error)
    return models
