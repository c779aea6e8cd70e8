"""Which models of the hub are here, whole and verified. Reads folders only: no network, no library.

Our cache has huggingface_hub's own layout, below `cache_dir/hub`, and beside each repository's
snapshots one empty file per verified commit. The person's general Hugging Face cache is read too,
so that what another program has downloaded is not downloaded again.
"""

from pathlib import Path

from huggingface_hub import constants

from llamastream.errors import ModelError
from llamastream.models.folder import weight_files

MAIN = "main"


def hub_folder(cache_dir: Path) -> Path:
    return cache_dir / "hub"


def repository_folder(hub: Path, repo_id: str) -> Path:
    return hub / ("models--" + repo_id.replace("/", "--"))


def find_fetched(
    cache_dir: Path, repo_id: str, revision: str | None, *, with_weights: bool = True
) -> Path | None:
    """The snapshot of `revision`, from our cache or else the general one; None when in neither."""
    ours = repository_folder(hub_folder(cache_dir), repo_id)
    commit = _commit(ours, revision)
    if commit and (
        _mark(ours, commit).is_file()
        or (not with_weights and _is_whole(ours / "snapshots" / commit, with_weights=False))
    ):
        return ours / "snapshots" / commit
    general = repository_folder(Path(constants.HF_HUB_CACHE), repo_id)
    commit = _commit(general, revision)
    if commit and _is_whole(general / "snapshots" / commit, with_weights=with_weights):
        return general / "snapshots" / commit
    return None


def mark_verified(snapshot: Path) -> None:
    """Record that all files of `snapshot` are here and have the digests the hub stated."""
    mark = _mark(snapshot.parent.parent, snapshot.name)
    mark.parent.mkdir(exist_ok=True)
    mark.touch()


def list_fetched(cache_dir: Path) -> list[tuple[str, Path]]:
    """Hub id and snapshot of each model in our cache, by name."""
    found = []
    for mark in sorted(hub_folder(cache_dir).glob("models--*/verified/*")):
        repository = mark.parent.parent
        name = repository.name.removeprefix("models--").replace("--", "/", 1)
        found.append((name, repository / "snapshots" / mark.name))
    return found


def _mark(repository: Path, commit: str) -> Path:
    return repository / "verified" / commit


def _commit(repository: Path, revision: str | None) -> str | None:
    """The commit that `revision` (a branch, a tag, or a commit) was when it was downloaded."""
    if revision and (repository / "snapshots" / revision).is_dir():
        return revision
    reference = repository / "refs" / (revision or MAIN)
    return reference.read_text().strip() if reference.is_file() else None


def _is_whole(snapshot: Path, *, with_weights: bool) -> bool:
    """Other programs may have fetched only a part, such as the configuration."""
    if with_weights:
        try:
            weight_files(snapshot)
        except ModelError:
            return False
    return (snapshot / "config.json").is_file() and (snapshot / "tokenizer.json").is_file()
