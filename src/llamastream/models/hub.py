"""Fetches a model from the Hugging Face Hub: configuration, tokenizer, safetensors, nothing else.

No pickle and no code is ever downloaded. The small files come first, so that a model we cannot run
is refused before gigabytes travel. Every file's digest is compared with what the hub stated.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi, get_token, snapshot_download

# HTTPError is its client's, httpx or httpx2 by version: not re-exported, but there in both.
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils.tqdm import tqdm

from llamastream.errors import ModelError, ModelUnavailable
from llamastream.models.arrival import reported
from llamastream.models.checkpoint import Progress
from llamastream.models.folder import INDEX, SHARD, SINGLE
from llamastream.models.hf_config import parse_config
from llamastream.models.hf_tokenizer import read_json
from llamastream.models.hub_cache import hub_folder, mark_verified, repository_folder
from llamastream.models.quantization import parse_quantization

SMALL_FILES = (
    "config.json",
    "quantize_config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    INDEX,
)
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")


class _Silent(tqdm):
    """huggingface_hub's own bars, off: `Progress` reports instead."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **{**options, "disable": True})  # type: ignore[no-untyped-call]


def download_model(
    repo_id: str,
    revision: str | None,
    cache_dir: Path,
    progress: Progress | None = None,
    endpoint: str | None = None,
    *,
    with_weights: bool = True,
) -> Path:
    """The folder of the model's files, verified. What an earlier call got is not fetched again.

    endpoint: address of the hub, None for the configured one. Raises ModelError.
    """
    download = _Download(repo_id, revision, hub_folder(cache_dir), endpoint)
    try:
        return download.run(progress, with_weights)
    except GatedRepoError as error:
        raise ModelError(_gated(repo_id)) from error
    except RevisionNotFoundError as error:
        raise ModelError(f"{repo_id} has no revision {revision!r} on the hub.") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelError(
            f"There is no model {repo_id!r} on the hub, or it is private. Check the name; for a "
            "private model run `hf auth login` or set HF_TOKEN."
        ) from error
    except HfHubHTTPError as error:
        raise ModelUnavailable(
            f"The hub answered {error.response.status_code} for {repo_id}. Try again later."
        ) from error
    except (HTTPError, ConnectionError, LocalEntryNotFoundError) as error:
        raise ModelUnavailable(
            f"No connection to the hub for {repo_id}: {_first_line(error)} Check the network and "
            "start again: what has arrived is kept."
        ) from error
    except OSError as error:
        raise ModelError(
            f"Cannot store {repo_id} in {download.hub}: {_first_line(error)} Check the space on "
            "the disk and start again."
        ) from error


class _Download:
    """One revision of a repository on its way into `hub`, a cache in huggingface_hub's layout."""

    def __init__(self, repo_id: str, revision: str | None, hub: Path, endpoint: str | None) -> None:
        self.repo_id = repo_id
        self.revision = revision
        self.hub = hub
        self.endpoint = endpoint

    def run(self, progress: Progress | None, with_weights: bool) -> Path:
        files = self._list()
        small = [file for file in files if file.rfilename in SMALL_FILES]
        names = {file.rfilename for file in small}
        if "tokenizer.json" not in names:
            small += [file for file in files if file.rfilename == "tokenizer.model"]
        weights = _weights(self.repo_id, files) if with_weights else []
        snapshot = self._fetch(small)
        config = snapshot / "config.json"
        values = read_json(config)
        parse_config(values, config)
        if with_weights:
            parse_quantization(values, config)
        total = sum(file.size or 0 for file in weights)
        with reported(progress, self.repo_id, total, lambda: self._arrived(weights)):
            if weights:
                snapshot = self._fetch(weights)
        for file in (*small, *weights):
            _verify(snapshot / file.rfilename, file)
        if with_weights:
            mark_verified(snapshot)
        return snapshot

    def _list(self) -> list[RepoSibling]:
        info = HfApi(endpoint=self.endpoint).model_info(
            self.repo_id, revision=self.revision, files_metadata=True
        )
        return info.siblings or []

    def _fetch(self, files: Sequence[RepoSibling]) -> Path:
        folder = snapshot_download(
            self.repo_id,
            revision=self.revision,
            cache_dir=self.hub,
            endpoint=self.endpoint,
            allow_patterns=[file.rfilename for file in files],
            tqdm_class=_Silent,
        )
        return Path(folder)

    def _arrived(self, files: Sequence[RepoSibling]) -> int:
        """Bytes of `files` that are here, those of unfinished downloads included."""
        digests = tuple(_digest(file) for file in files)
        blobs = repository_folder(self.hub, self.repo_id) / "blobs"
        total = 0
        for blob in blobs.glob("*"):
            try:
                total += blob.stat().st_size if blob.name.startswith(digests) else 0
            except FileNotFoundError:
                continue  # a finished download has just been renamed
        return total


def _weights(repo_id: str, files: Sequence[RepoSibling]) -> list[RepoSibling]:
    """The one safetensors file, or all its shards: no duplicates in other formats or folders."""
    names = {file.rfilename for file in files}
    if SINGLE in names:
        return [file for file in files if file.rfilename == SINGLE]
    shards = [file for file in files if SHARD.fullmatch(file.rfilename)]
    if shards:
        return shards
    if any(name.endswith(".gguf") for name in names):
        raise ModelError(
            f"{repo_id} holds GGUF files. Download the one you want from "
            f"https://huggingface.co/{repo_id}/tree/main and give its path."
        )
    if any(name.endswith(PICKLE_SUFFIXES) for name in names):
        raise ModelError(
            f"{repo_id} has its weights only as pickle files, which can run code when read and are "
            "never loaded. Choose a repository with safetensors."
        )
    raise ModelError(f"{repo_id} has no safetensors weights. Choose another repository.")


def _digest(file: RepoSibling) -> str:
    return str(file.lfs.sha256 if file.lfs else file.blob_id)


def _verify(path: Path, file: RepoSibling) -> None:
    """Raises ModelError, and removes the file, when its digest is not the one the hub states."""
    with path.open("rb") as stream:
        if file.lfs:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        else:  # git's own digest
            data = stream.read()
            found = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    if found != _digest(file):
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise ModelError(
            f"{file.rfilename} has the wrong digest: it must be {_digest(file)}. Given: {found}. "
            "It was damaged on its way and has been removed: start again."
        )


def _gated(repo_id: str) -> str:
    page = f"https://huggingface.co/{repo_id}"
    if get_token() is None:
        return (
            f"{repo_id} is gated. Ask for access on {page}, then run `hf auth login` or set "
            "HF_TOKEN, and start again."
        )
    return (
        f"{repo_id} is gated, and your token's account has no access. Ask for it on {page}, or log "
        "in to another account: run `hf auth login` or set HF_TOKEN."
    )


def _first_line(error: Exception) -> str:
    line = (str(error) or type(error).__name__).strip().splitlines()[0]
    return line.rstrip(".") + "."
