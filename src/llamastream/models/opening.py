"""From what a person calls a model to an opened Checkpoint, and the models that are here."""

import logging
import re
from dataclasses import replace
from pathlib import Path

from llamastream.errors import ModelError
from llamastream.models.checkpoint import Checkpoint, Progress
from llamastream.models.demo import demo_file, fetch_demo
from llamastream.models.folder import open_folder
from llamastream.models.gguf_file import is_gguf, open_gguf
from llamastream.models.gguf_split import model_name
from llamastream.models.hub_cache import find_fetched, list_fetched
from llamastream.sampling import SamplingParams

logger = logging.getLogger(__name__)

DEMO = "demo"
# Its file recommends nothing. Greedily a third of its answers loops; so 1.7 % do (docs/LOG.md).
DEMO_SAMPLING = SamplingParams(temperature=0.6, top_p=0.9, repetition_penalty=1.1)
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def open_checkpoint(
    model: str,
    *,
    cache_dir: Path,
    revision: str | None = None,
    progress: Progress | None = None,
    with_weights: bool = True,
) -> Checkpoint:
    """Find `model`, fetch it if it is not here yet, and read its headers.

    Without weights only its small files are fetched and read, where weights are files of their own.

    model: "demo", a local folder or .gguf file, or a hub id; a path that exists wins over a hub id.
    revision: branch, tag or commit on the hub. Raises ModelError, one line saying what to do.
    """
    path = Path(model).expanduser()
    if revision is not None and (model == DEMO or path.exists()):
        raise ModelError(f"revision applies to models of the hub only. Given: {revision!r}.")
    if model == DEMO:
        return _open_demo(fetch_demo(cache_dir, progress), cache_dir)
    if model and path.is_dir():
        return open_folder(path, name=path.resolve().name, with_weights=with_weights)
    if path.is_file():
        return _open_file(path, cache_dir)
    if model.endswith(".gguf") or not HUB_ID.fullmatch(model):
        raise ModelError(
            f"No model {model!r}: neither a folder nor a file here, nor of the form owner/name. "
            "Give one of these, or demo."
        )
    folder = fetch_model(model, revision, cache_dir, progress, with_weights=with_weights)
    return open_folder(folder, name=model, with_weights=with_weights)


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
                models.append(_open_demo(path, cache_dir))
        except ModelError as error:
            logger.warning("cannot read model %s: %s", name, error)
    return models


def fetch_model(
    repo_id: str,
    revision: str | None,
    cache_dir: Path,
    progress: Progress | None = None,
    endpoint: str | None = None,
    *,
    with_weights: bool = True,
) -> Path:
    """The folder of a hub model, downloaded at the first call; later calls need no network.

    endpoint: address of the hub, None for the configured one. Raises ModelError.
    """
    found = find_fetched(cache_dir, repo_id, revision, with_weights=with_weights)
    if found is not None:
        return found
    # Deferred: the hub's client takes 0.2 s to import.
    from llamastream.models.hub import download_model

    return download_model(
        repo_id, revision, cache_dir, progress, endpoint, with_weights=with_weights
    )


def _open_demo(file: Path, cache_dir: Path) -> Checkpoint:
    return replace(open_gguf(file, name=DEMO, cache_dir=cache_dir), sampling=DEMO_SAMPLING)


def _open_file(path: Path, cache_dir: Path) -> Checkpoint:
    if path.suffix != ".gguf" and not is_gguf(path):  # Ollama's files have a digest for a name
        raise ModelError(
            f"{path} is not a .gguf file. Give a .gguf file, or the folder that holds config.json."
        )
    return open_gguf(path, name=model_name(path), cache_dir=cache_dir)
