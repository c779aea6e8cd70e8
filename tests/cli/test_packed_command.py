"""`llamastream models packed` and `remove`."""

from pathlib import Path

from typer.testing import CliRunner

from llamastream.cli.main import app
from llamastream.models.packed import image_path, list_images


def run(*args: str) -> str:
    result = CliRunner().invoke(app, ["models", *args], catch_exceptions=False)
    return result.output


def test_packed_weights_are_listed_and_removed_by_name(tmp_path: Path) -> None:
    folder = ("--data-dir", str(tmp_path))
    assert "No packed weights yet" in run("packed", *folder)
    for name in ("one", "two"):
        path = image_path(tmp_path, name, name * 8, "int8")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(2000))
    listed = run("packed", *folder)
    assert "4.0 kB" in listed and "one" in listed and "two" in listed
    assert "2.0 kB are free again" in run("remove", list_images(tmp_path)[0].name, *folder)
    assert len(list_images(tmp_path)) == 1
    run("remove", "all", *folder)
    assert list_images(tmp_path) == []
